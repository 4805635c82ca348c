/* What the harness asks of the machine it runs on: files beside the emulator, and an end with a status. */
#ifndef QKD_HOST_H
#define QKD_HOST_H

#include <stdint.h>

enum {
  STATUS_FAILED = 1,          /* a file could not be read or written */
  STATUS_BROKEN_PROMISE = 70, /* the model did what its header excludes: a defect in qkd */
  STATUS_FAULT = 99           /* the core raised a fault */
};

#ifndef HOST_MARK
#define HOST_MARK() __asm__ volatile("") /* nothing to do: the counting plugin sees where the program is */
#endif

typedef intptr_t host_file;

host_file host_open_to_read(const char *name);
host_file host_open_to_write(const char *name);
void host_read(host_file file, void *bytes, uint32_t count);
void host_write(host_file file, const void *bytes, uint32_t count);
void host_close(host_file file);
_Noreturn void host_exit(int32_t status, const char *message); /* the message may be NULL */

#endif
