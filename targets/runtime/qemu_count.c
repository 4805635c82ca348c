/* QEMU plugin: counts the executed instructions of each address, and writes them out whenever the mark function is entered.
 *
 * Arguments: out=FILE (text), mark=ADDRESS (decimal or 0x; without it there is one mark, at the end), inline=off (slower; for
 * tests of the way that newer QEMUs go).
 * Output, for each entry of the mark function, instructions since QEMU started, then what was executed since the last mark:
 *     mark TOTAL
 *     ADDRESS COUNT ...      hexadecimal, decimal
 *
 * Distributions ship QEMU without its plugin header, so what is needed of its C API is declared here. Version 1 of that API
 * (QEMU 4.2 to 8.2) adds to a counter inline; version 2 (QEMU 9 and later) dropped that function, and a callback does it.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info qemu_info_t; /* its content is not needed */
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { WITHOUT_REGISTERS = 0, INLINE_ADD_U64 = 0 };
typedef void (*on_translate)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*on_execute)(unsigned vcpu, void *data);
typedef void (*on_end)(qemu_plugin_id_t, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, on_translate);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, on_execute, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int operation, void *counter, uint64_t operand)
    __attribute__((weak));
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, on_end, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);

EXPORT int qemu_plugin_version = 1;

/* QEMU reads the version after loading the library, so it can still be chosen here by what this QEMU offers. */
__attribute__((constructor)) static void choose_version(void) {
  if (qemu_plugin_register_vcpu_insn_exec_inline == NULL) qemu_plugin_version = 2;
}

/* Counters live in pages of code, found by hashing; an address keeps its counter when QEMU translates it again. */
enum { PAGE_BITS = 12, SLOTS = 1 << (PAGE_BITS - 1), PAGES = 1 << 14 };
typedef struct {
  uint64_t base;
  uint64_t count[SLOTS]; /* one for each two bytes, the length of the shortest instruction */
  uint64_t at_last_mark[SLOTS];
} page;
static page *pages[PAGES];
static unsigned used_pages;

static FILE *out;
static uint64_t mark_address, total;
static bool count_inline = true;

/* _Exit, because QEMU's own exit handlers would wait for the thread that this is called from. */
_Noreturn static void fail(const char *why) {
  fprintf(stderr, "qemu_count: %s\n", why);
  _Exit(1);
}

static page *find_page(uint64_t base) {
  unsigned slot = (unsigned)((base >> PAGE_BITS) * 2654435761u) % PAGES;
  for (; pages[slot] != NULL; slot = (slot + 1) % PAGES) {
    if (pages[slot]->base == base) return pages[slot];
  }
  if (++used_pages == PAGES || (pages[slot] = calloc(1, sizeof(page))) == NULL) fail("more code than can be counted");
  pages[slot]->base = base;
  return pages[slot];
}

static uint64_t *counter(uint64_t address) {
  const uint64_t offset = address & ((1u << PAGE_BITS) - 1);
  return &find_page(address - offset)->count[offset / 2];
}

static void count_one(unsigned vcpu, void *count) {
  (void)vcpu;
  ++*(uint64_t *)count;
}

static void write_page(page *p) {
  for (unsigned slot = 0; slot < SLOTS; slot++) {
    const uint64_t executed = p->count[slot] - p->at_last_mark[slot];
    if (executed == 0) continue;
    fprintf(out, "%" PRIx64 " %" PRIu64 "\n", p->base + 2 * slot, executed);
    p->at_last_mark[slot] = p->count[slot];
  }
}

static void on_mark(unsigned vcpu, void *data) {
  (void)vcpu, (void)data;
  total = 0;
  for (unsigned i = 0; i < PAGES; i++) {
    for (unsigned slot = 0; pages[i] != NULL && slot < SLOTS; slot++) total += pages[i]->count[slot];
  }
  fprintf(out, "mark %" PRIu64 "\n", total);
  for (unsigned i = 0; i < PAGES; i++) {
    if (pages[i] != NULL) write_page(pages[i]);
  }
  if (fflush(out) != 0) fail("writing failed; is the disk full?");
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
    const uint64_t address = qemu_plugin_insn_vaddr(instruction);
    if (address == mark_address) qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_mark, WITHOUT_REGISTERS, NULL);
    if (count_inline) {
      qemu_plugin_register_vcpu_insn_exec_inline(instruction, INLINE_ADD_U64, counter(address), 1);
    } else {
      qemu_plugin_register_vcpu_insn_exec_cb(instruction, count_one, WITHOUT_REGISTERS, counter(address));
    }
  }
}

static void close_file(qemu_plugin_id_t id, void *data) {
  (void)id;
  if (mark_address == 0) on_mark(0, data); /* programs that were not linked with the harness */
  if (fclose(out) != 0) fprintf(stderr, "qemu_count: writing failed; is the disk full?\n");
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
  (void)info;
  const char *path = "counts.txt";
  count_inline = qemu_plugin_register_vcpu_insn_exec_inline != NULL;
  for (int i = 0; i < argc; i++) {
    if (strncmp(argv[i], "out=", 4) == 0) path = argv[i] + 4;
    if (strncmp(argv[i], "mark=", 5) == 0) mark_address = strtoull(argv[i] + 5, NULL, 0);
    if (strcmp(argv[i], "inline=off") == 0) count_inline = false;
  }
  out = fopen(path, "w");
  if (out == NULL) fail("the output file cannot be written");
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, close_file, NULL);
  return 0;
}
