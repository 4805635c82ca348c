/* host.h by Arm semihosting: the emulator opens, reads and writes the files of its working folder for the program. */
#include "host.h"

#include <stddef.h>

/* Operation numbers and parameter blocks are those of Arm's semihosting specification. */
enum { SYS_OPEN = 0x01, SYS_CLOSE = 0x02, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { MODE_READ_BINARY = 1, MODE_WRITE_BINARY = 5 };
#define APPLICATION_EXIT 0x20026

static intptr_t semihost(intptr_t operation, const void *parameters) {
  register intptr_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = parameters;
  __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static host_file open_file(const char *name, intptr_t mode) {
  intptr_t length = 0;
  while (name[length] != '\0') length++;
  const intptr_t parameters[3] = {(intptr_t)name, mode, length};
  host_file file = semihost(SYS_OPEN, parameters);
  if (file < 0) host_exit(STATUS_FAILED, "harness: a file beside the emulator cannot be opened\n");
  return file;
}

host_file host_open_to_read(const char *name) { return open_file(name, MODE_READ_BINARY); }

host_file host_open_to_write(const char *name) { return open_file(name, MODE_WRITE_BINARY); }

/* SYS_READ and SYS_WRITE return how many bytes were *not* transferred. */
void host_read(host_file file, void *bytes, uint32_t count) {
  const intptr_t parameters[3] = {file, (intptr_t)bytes, (intptr_t)count};
  if (semihost(SYS_READ, parameters) != 0) host_exit(STATUS_FAILED, "harness: the input file is too short\n");
}

void host_write(host_file file, const void *bytes, uint32_t count) {
  const intptr_t parameters[3] = {file, (intptr_t)bytes, (intptr_t)count};
  if (semihost(SYS_WRITE, parameters) != 0) host_exit(STATUS_FAILED, "harness: writing failed; is the disk full?\n");
}

void host_close(host_file file) {
  const intptr_t parameters[1] = {file};
  semihost(SYS_CLOSE, parameters);
}

_Noreturn void host_exit(int32_t status, const char *message) {
  const intptr_t parameters[2] = {APPLICATION_EXIT, status};
  if (message != NULL) semihost(SYS_WRITE0, message); /* QEMU prints it to stderr */
  for (;;) semihost(SYS_EXIT_EXTENDED, parameters);
}
