/* selftest_print of a bundle's self-test by Arm semihosting; on a board without a debugger, write to a UART instead. */
#include "host.h"

void selftest_print(const char *text);

void selftest_print(const char *text) {
  uint32_t length = 0;
  while (text[length] != '\0') length++;
  host_file standard_output = host_open_to_write(":tt"); /* the name of the console in Arm's specification */
  host_write(standard_output, text, length);
  host_close(standard_output);
}
