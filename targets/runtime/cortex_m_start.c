/* Start-up of a Cortex-M program: vectors, floating-point and vector unit, .data and .bss, and a fault handler that tells. */
#include <stdint.h>

#include "host.h"

extern uint32_t stack_top[], data_load[], data_start[], data_end[], bss_start[], bss_end[]; /* from cortex_m.ld */
int main(void);
void reset(void);
void fault(void);

#define SCB_CCR (*(volatile uint32_t *)0xE000ED14u)   /* configuration and control */
#define SCB_CFSR (*(volatile uint32_t *)0xE000ED28u)  /* configurable fault status */
#define SCB_HFSR (*(volatile uint32_t *)0xE000ED2Cu)  /* HardFault status */
#define SCB_BFAR (*(volatile uint32_t *)0xE000ED38u)  /* address of a bus fault */
#define SCB_CPACR (*(volatile uint32_t *)0xE000ED88u) /* coprocessor access */
#define CPACR_CP10_CP11_FULL (0xFu << 20)
#define CCR_LOB (1u << 19) /* low-overhead branches: without it, loops of Armv8.1-M take the slow way */

/* The fifteen exceptions of the core; interrupts stay off, so no more are needed. */
__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, reset, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault,
};

__attribute__((noinline)) _Noreturn static void start(void) {
  for (uint32_t *from = data_load, *to = data_start; to < data_end;) *to++ = *from++;
  for (uint32_t *word = bss_start; word < bss_end;) *word++ = 0;
  host_exit(main(), 0);
}

/* `start` is a function of its own because the compiler may use vector registers in it, which are off until here. */
void reset(void) {
#if __ARM_ARCH_ISA_THUMB >= 2 /* Armv6-M has no coprocessors */
  SCB_CPACR |= CPACR_CP10_CP11_FULL;
#endif
#if defined(__ARM_FEATURE_MVE)
  SCB_CCR |= CCR_LOB;
#endif
  __asm__ volatile("dsb\n\tisb" ::: "memory");
  start();
}

static char *append(char *text, const char *more) {
  while (*more != '\0') *text++ = *more++;
  return text;
}

static char *append_hex(char *text, uint32_t value) {
  for (int shift = 28; shift >= 0; shift -= 4) *text++ = "0123456789abcdef"[(value >> shift) & 15];
  return text;
}

/* `frame` is what the core pushed on entry: r0-r3, r12, lr, pc, xpsr. */
__attribute__((used)) _Noreturn void report_fault(const uint32_t *frame) {
  static char message[128];
  uint32_t exception;
  __asm__ volatile("mrs %0, ipsr" : "=r"(exception));
  char *end = append_hex(append(message, "harness: fault, exception 0x"), exception);
  end = append_hex(append(end, " at pc 0x"), frame[6]);
  end = append_hex(append(end, ", cfsr 0x"), SCB_CFSR);
  end = append_hex(append(end, ", hfsr 0x"), SCB_HFSR);
  end = append_hex(append(end, ", bfar 0x"), SCB_BFAR);
  *append(end, "\n") = '\0';
  host_exit(STATUS_FAULT, message);
}

__attribute__((naked)) void fault(void) { __asm__ volatile("mrs r0, msp\n\tb report_fault"); }
