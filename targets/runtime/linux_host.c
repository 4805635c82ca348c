/* host.h on Linux, for AArch64 programs in user-mode emulation or on a board. */
#include "host.h"

#include <stdio.h>
#include <stdlib.h>

static host_file open_file(const char *name, const char *mode) {
  FILE *file = fopen(name, mode);
  if (file == NULL) host_exit(STATUS_FAILED, "harness: a file of the working folder cannot be opened\n");
  return (host_file)file;
}

host_file host_open_to_read(const char *name) { return open_file(name, "rb"); }

host_file host_open_to_write(const char *name) { return open_file(name, "wb"); }

void host_read(host_file file, void *bytes, uint32_t count) {
  if (fread(bytes, 1, count, (FILE *)file) != count) host_exit(STATUS_FAILED, "harness: the input file is too short\n");
}

void host_write(host_file file, const void *bytes, uint32_t count) {
  if (fwrite(bytes, 1, count, (FILE *)file) != count) host_exit(STATUS_FAILED, "harness: writing failed; is the disk full?\n");
}

void host_close(host_file file) {
  if (fclose((FILE *)file) != 0) host_exit(STATUS_FAILED, "harness: writing failed; is the disk full?\n");
}

_Noreturn void host_exit(int32_t status, const char *message) {
  if (message != NULL) fputs(message, stderr);
  exit(status);
}
