// Record what ggml's dynamic tensor allocator does with random requests: tests/engines/llamacpp/gallocr_golden.json.
//
//     gcc -O1 -w -DNDEBUG -ffunction-sections -IGGML/src -IGGML/include record_gallocr_golden.c -o record -static \
//         -Wl,--gc-sections -Wl,--unresolved-symbols=ignore-all && ./record
//
// GGML is the folder ggml of a checkout of llama.cpp. A step of three numbers takes bytes and gets chunk and offset, one of
// a single number frees what the taking of that number got; "used" are the bytes of each chunk in the end.
#include "ggml-alloc.c"
static unsigned long long rng = 88172645463325252ULL;
static unsigned rnd(void){ rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return (unsigned)(rng >> 11); }
int main(void){
  struct { size_t align, max; int n; size_t scale; } runs[] = {{32, SIZE_MAX, 120, 5000}, {128, SIZE_MAX, 120, 40000}, {128, 100000, 120, 40000}, {32, 4096, 60, 3000}, {1, SIZE_MAX, 80, 12}};
  printf("[");
  for (int r = 0; r < 5; r++) {
    struct ggml_dyn_tallocr * a = ggml_dyn_tallocr_new(runs[r].align, runs[r].max);
    struct buffer_address addr[512]; size_t size[512]; int live[512]; int n_live = 0, made = 0;
    printf("%s{\"alignment\": %zu, \"max_chunk\": %lld, \"steps\": [", r ? ",\n " : "\n ", runs[r].align, runs[r].max == SIZE_MAX ? -1LL : (long long) runs[r].max);
    for (int i = 0; i < runs[r].n; i++) {
      if (n_live == 0 || rnd() % 100 < 58) {
        size_t s = (size_t)((rnd() % 8) ? rnd() % runs[r].scale : (rnd() % 3) * runs[r].align);
        addr[made] = ggml_dyn_tallocr_alloc(a, s, NULL); size[made] = s; live[n_live++] = made;
        printf("%s[%zu, %d, %zu]", i ? ", " : "", s, addr[made].chunk, addr[made].offset); made++;
      } else {
        int k = rnd() % n_live; int which = live[k]; live[k] = live[--n_live];
        ggml_dyn_tallocr_free_bytes(a, addr[which], size[which]);
        printf("%s[%d]", i ? ", " : "", which);
      }
    }
    printf("], \"used\": [");
    for (int c = 0; c < a->n_chunks; c++) printf("%s%zu", c ? ", " : "", ggml_dyn_tallocr_max_size(a, c));
    printf("]}");
  }
  printf("]\n"); return 0;
}
