/* The harness as functions that a TVM RPC server can call; what are files elsewhere are tensors of the session here. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void mark_time(void);
#define HOST_MARK() mark_time()
#define main harness_main /* a program elsewhere, a function of a library here */
#include "harness.c"
#undef main

/* TVM-FFI's C ABI as far as it is used here: a function `__tvm_ffi_<name>` gets an array of tagged values and fills one. */
enum { FFI_INT = 1, FFI_TENSOR = 7, FFI_STRING = 8 };

typedef struct {
  int32_t type;
  uint32_t zero;
  union {
    int64_t integer;
    const void *pointer;
  } value;
} ffi_any;

typedef struct { /* DLPack's tensor */
  void *data;
  int32_t device[2];
  int32_t dimensions;
  uint8_t code, bits;
  uint16_t lanes;
  const int64_t *shape;
  const int64_t *strides;
  uint64_t byte_offset;
} ffi_tensor;

typedef struct {
  const char *name;
  uint8_t *next, *end;
} tensor_file;

enum { MARKS = 4, MESSAGE, FILES };

/* In the order of the arguments of `run`. */
static tensor_file files[FILES] = {
    {.name = "inputs.bin"}, {.name = "outputs.bin"}, {.name = "layers.bin"},
    {.name = "stack.bin"},  {.name = "marks.bin"},   {.name = "message.txt"},
};
static jmp_buf out;
static int32_t exit_status;

/* Fill `file` from an argument, which must be a tensor of bytes. */
static int open_tensor(tensor_file *file, const ffi_any *argument) {
  if (argument->type != FFI_TENSOR) return -1;
  const ffi_tensor *tensor = argument->value.pointer;
  if (tensor->dimensions != 1 || tensor->bits != 8 || tensor->lanes != 1) return -1;
  file->next = (uint8_t *)tensor->data + tensor->byte_offset;
  file->end = file->next + tensor->shape[0];
  return 0;
}

static host_file find(const char *name) {
  for (int i = 0; i < FILES; i++) {
    if (strcmp(files[i].name, name) == 0) return (host_file)&files[i];
  }
  host_exit(STATUS_FAILED, "harness: a file was opened that the session does not have\n");
}

host_file host_open_to_read(const char *name) { return find(name); }

host_file host_open_to_write(const char *name) { return find(name); }

static uint8_t *advance(tensor_file *file, uint32_t count) {
  if ((size_t)(file->end - file->next) < count) host_exit(STATUS_FAILED, "harness: a tensor of the session is too small\n");
  file->next += count;
  return file->next - count;
}

void host_read(host_file file, void *bytes, uint32_t count) { memcpy(bytes, advance((tensor_file *)file, count), count); }

void host_write(host_file file, const void *bytes, uint32_t count) {
  memcpy(advance((tensor_file *)file, count), bytes, count);
}

void host_close(host_file file) { (void)file; }

_Noreturn void host_exit(int32_t status, const char *message) {
  size_t room = (size_t)(files[MESSAGE].end - files[MESSAGE].next), length = strlen(message);
  memcpy(files[MESSAGE].next, message, length < room ? length : room);
  exit_status = status;
  longjmp(out, 1);
}

static void mark_time(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
  host_write((host_file)&files[MARKS], &now_ns, sizeof now_ns);
}

/* run(inputs, outputs, layers, stack, marks, message) → status, as the harness's program gives it. */
int __tvm_ffi_qkd_run(void *self, const ffi_any *arguments, int32_t count, ffi_any *result) {
  (void)self;
  *result = (ffi_any){.type = FFI_INT, .value.integer = STATUS_FAILED};
  if (count != FILES) return 0;
  for (int i = 0; i < FILES; i++) {
    if (open_tensor(&files[i], &arguments[i]) != 0) return 0;
  }
  memset(files[MESSAGE].next, 0, (size_t)(files[MESSAGE].end - files[MESSAGE].next));
  exit_status = 0;
  if (setjmp(out) == 0) harness_main();
  result->value.integer = exit_status;
  return 0;
}

/* read(path, tensor) → number of bytes: the target of a link, or the first bytes of a file; negative: -errno. */
int __tvm_ffi_qkd_read(void *self, const ffi_any *arguments, int32_t count, ffi_any *result) {
  (void)self;
  *result = (ffi_any){.type = FFI_INT, .value.integer = -EINVAL};
  tensor_file into;
  if (count != 2 || arguments[0].type != FFI_STRING || open_tensor(&into, &arguments[1]) != 0) return 0;
  const char *path = arguments[0].value.pointer;
  size_t room = (size_t)(into.end - into.next);
  ssize_t length = readlink(path, (char *)into.next, room);
  if (length < 0) {
    FILE *file = fopen(path, "rb");
    length = file == NULL ? -errno : (ssize_t)fread(into.next, 1, room, file);
    if (file != NULL) fclose(file);
  }
  result->value.integer = length;
  return 0;
}

/* counter_hz() → frequency of the core's generic timer, by which emulators can be known; 0 on other processors. */
int __tvm_ffi_qkd_counter_hz(void *self, const ffi_any *arguments, int32_t count, ffi_any *result) {
  (void)self, (void)arguments, (void)count;
  uint64_t frequency_hz = 0;
#ifdef __aarch64__
  __asm__("mrs %0, cntfrq_el0" : "=r"(frequency_hz));
#endif
  *result = (ffi_any){.type = FFI_INT, .value.integer = (int64_t)frequency_hz};
  return 0;
}
