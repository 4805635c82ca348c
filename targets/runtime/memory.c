/* The four memory functions that compilers may call in a program without a C library, under C's and Arm's names. */
#include <stddef.h>
#include <stdint.h>

static int both_aligned(const void *a, const void *b) { return (((uintptr_t)a | (uintptr_t)b) & 3) == 0; }

void *memcpy(void *restrict to, const void *restrict from, size_t count) {
  uint8_t *out = to;
  const uint8_t *in = from;
  if (both_aligned(to, from)) {
    for (; count >= 4; count -= 4, out += 4, in += 4) *(uint32_t *)out = *(const uint32_t *)in;
  }
  while (count-- > 0) *out++ = *in++;
  return to;
}

void *memmove(void *to, const void *from, size_t count) {
  uint8_t *out = to;
  const uint8_t *in = from;
  if (out <= in) {
    while (count-- > 0) *out++ = *in++;
  } else {
    while (count-- > 0) out[count] = in[count];
  }
  return to;
}

void *memset(void *to, int value, size_t count) {
  uint8_t *out = to;
  for (; count > 0 && ((uintptr_t)out & 3) != 0; count--) *out++ = (uint8_t)value;
  for (; count >= 4; count -= 4, out += 4) *(uint32_t *)out = 0x01010101u * (uint8_t)value;
  while (count-- > 0) *out++ = (uint8_t)value;
  return to;
}

int memcmp(const void *left, const void *right, size_t count) {
  const uint8_t *a = left, *b = right;
  for (; count > 0; count--, a++, b++) {
    if (*a != *b) return *a - *b;
  }
  return 0;
}

/* Arm's run-time ABI: LLVM calls these; the 4 and 8 promise alignment. Note the order of __aeabi_memset's arguments. */
void __aeabi_memcpy(void *to, const void *from, size_t count) { memcpy(to, from, count); }
void __aeabi_memcpy4(void *to, const void *from, size_t count) { memcpy(to, from, count); }
void __aeabi_memcpy8(void *to, const void *from, size_t count) { memcpy(to, from, count); }
void __aeabi_memmove(void *to, const void *from, size_t count) { memmove(to, from, count); }
void __aeabi_memmove4(void *to, const void *from, size_t count) { memmove(to, from, count); }
void __aeabi_memmove8(void *to, const void *from, size_t count) { memmove(to, from, count); }
void __aeabi_memset(void *to, size_t count, int value) { memset(to, value, count); }
void __aeabi_memset4(void *to, size_t count, int value) { memset(to, value, count); }
void __aeabi_memset8(void *to, size_t count, int value) { memset(to, value, count); }
void __aeabi_memclr(void *to, size_t count) { memset(to, 0, count); }
void __aeabi_memclr4(void *to, size_t count) { memset(to, 0, count); }
void __aeabi_memclr8(void *to, size_t count) { memset(to, 0, count); }
