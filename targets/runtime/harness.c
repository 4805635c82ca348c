/* Runs a model on inputs from a file: outputs, the output of every layer, the depth of its stack, and marks for counting. */
#include <stddef.h>

#include "harness_model.h" /* generated: what the model is called, its sizes and where each layer's output lies */
#include "host.h"

enum { JOB_RUN = 0, JOB_TRACE = 1, JOB_PROFILE = 2 };

#define GUARD_BYTES 64u
#define FILL 0xA5u
#define PAINTED_WORDS 16384u /* 64 KiB below the caller's frame */
#define PAINT 0xDEADBEEFu

#ifdef __x86_64__ /* a host that tests the harness */
#define STACK_POINTER_TO(register) "mov %%rsp, " register
#else
#define STACK_POINTER_TO(register) "mov " register ", sp"
#endif

/* The arena and the output lie between guards, and the arena starts as rubbish: a model that writes outside its buffers or
 * reads what it did not write must not pass. The input lies at an odd address, because the API promises no alignment. */
static uint8_t arena_memory[GUARD_BYTES + MODEL_ARENA_BYTES + GUARD_BYTES] __attribute__((aligned(MODEL_ARENA_ALIGN)));
static uint8_t output_memory[GUARD_BYTES + MODEL_OUTPUT_BYTES + GUARD_BYTES] __attribute__((aligned(4)));
static int8_t input_memory[1 + MODEL_INPUT_BYTES] __attribute__((aligned(4)));
static int8_t *const input = input_memory + 1;
static model_output *const output = (model_output *)(output_memory + GUARD_BYTES);
static model_context context;

/* The address of this function is what the counting plugin watches; as the model's hook it costs one instruction. A host
 * that has a clock of its own reads it here instead. */
__attribute__((noinline, noclone)) void harness_mark(void *user, int32_t layer, int32_t begin) {
  (void)user, (void)layer, (void)begin;
  HOST_MARK();
}

static void fill(uint8_t *bytes, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) bytes[i] = FILL;
}

static void check_guards(const uint8_t *memory, uint32_t count, const char *message) {
  for (uint32_t i = 0; i < GUARD_BYTES; i++) {
    if (memory[i] != FILL || memory[GUARD_BYTES + count + i] != FILL) host_exit(STATUS_BROKEN_PROMISE, message);
  }
}

static void run_model(void) {
  if (model_run(&context, input, output) != 0) host_exit(STATUS_BROKEN_PROMISE, "harness: the model's run failed\n");
}

static void write_layer(void *user, int32_t layer, int32_t begin) {
  if (begin) return;
  const harness_layer *written = &harness_layers[layer];
  const uint8_t *from = written->in_arena ? context.arena + written->offset : (const uint8_t *)output;
  host_write(*(const host_file *)user, from, written->bytes);
}

/* High-water mark of the stack below this function: the part of the painted area that the model has changed. */
__attribute__((noinline)) static uint32_t measure_stack(void) {
  volatile uint32_t *top;
  __asm__ volatile(STACK_POINTER_TO("%0") : "=r"(top));
  volatile uint32_t *const bottom = top - PAINTED_WORDS;
  for (volatile uint32_t *word = bottom; word < top; word++) *word = PAINT;
  run_model();
  volatile uint32_t *deepest = bottom;
  while (deepest < top && *deepest == PAINT) deepest++;
  if (deepest == bottom) host_exit(STATUS_BROKEN_PROMISE, "harness: the model took more than 64 KiB of stack\n");
  return (uint32_t)((uintptr_t)top - (uintptr_t)deepest);
}

/* Pairs of marks: around nothing, which is what marks cost; around one inference; then around each layer of another. */
static void profile(void) {
  void (*volatile mark)(void *, int32_t, int32_t) = harness_mark; /* called as the model calls its hook */
  context.hook = NULL;
  mark(NULL, 0, 1);
  mark(NULL, 0, 0);
  mark(NULL, 0, 1);
  (void)model_run(&context, input, output);
  mark(NULL, 0, 0);
  context.hook = harness_mark;
  (void)model_run(&context, input, output);
}

static void run_all(host_file inputs, uint32_t count, uint32_t job) {
  host_file outputs = host_open_to_write("outputs.bin");
  host_file layers = host_open_to_write("layers.bin");
  host_file stack = host_open_to_write("stack.bin");
  for (uint32_t i = 0; i < count; i++) {
    host_read(inputs, input, MODEL_INPUT_BYTES);
    if (i == 0) {
      uint32_t stack_bytes = measure_stack();
      host_write(stack, &stack_bytes, sizeof stack_bytes);
      context.user = &layers;
      context.hook = job == JOB_TRACE ? write_layer : NULL;
    }
    run_model();
    host_write(outputs, output, MODEL_OUTPUT_BYTES);
  }
  host_close(outputs);
  host_close(layers);
  host_close(stack);
}

int main(void) {
  uint32_t job[2]; /* what to do; number of inputs, or how often to profile the only one */
  host_file inputs = host_open_to_read("inputs.bin");
  host_read(inputs, job, sizeof job);
  fill(arena_memory, sizeof arena_memory);
  fill(output_memory, sizeof output_memory);
  if (model_init(&context, arena_memory + GUARD_BYTES, MODEL_ARENA_BYTES) != 0) {
    host_exit(STATUS_BROKEN_PROMISE, "harness: the model's init refused an arena of the size it asks for\n");
  }
  if (job[0] == JOB_PROFILE) {
    host_read(inputs, input, MODEL_INPUT_BYTES);
    for (uint32_t i = 0; i < job[1]; i++) profile();
  } else {
    run_all(inputs, job[1], job[0]);
  }
  check_guards(arena_memory, MODEL_ARENA_BYTES, "harness: the model wrote outside its arena\n");
  check_guards(output_memory, MODEL_OUTPUT_BYTES, "harness: the model wrote outside its output\n");
  host_close(inputs);
  return 0;
}
