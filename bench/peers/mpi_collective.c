// MPI_Allreduce (in place), MPI_Reduce_scatter_block or MPI_Allgather of float32, timed as bench/comm.py times furrow:
// mpi_collective all_reduce|reduce_scatter|all_gather.  Sizes are those of the whole buffer; one line of JSON per size.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int ascending(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static void call(const char* operation, float* whole, int elements, float* part, int share) {
  if (strcmp(operation, "all_reduce") == 0) {
    MPI_Allreduce(MPI_IN_PLACE, whole, elements, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  } else if (strcmp(operation, "reduce_scatter") == 0) {
    MPI_Reduce_scatter_block(whole, part, share, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  } else {
    MPI_Allgather(part, share, MPI_FLOAT, whole, share, MPI_FLOAT, MPI_COMM_WORLD);
  }
}

// Written once: pages that nobody wrote are all one page of zeros, which would be read faster.
static float* written(int elements) {
  float* data = malloc((size_t)elements * sizeof(float));
  for (int i = 0; i < elements; ++i) data[i] = 1;
  return data;
}

static void measure(const char* operation, long bytes, int rank, int ranks) {
  long calls = (256L << 20) / bytes;
  calls = calls < 8 ? 8 : calls > 3000 ? 3000 : calls;
  const int elements = (int)(bytes / 4), share = elements / ranks > 0 ? elements / ranks : 1;
  float* whole = written(share * ranks > elements ? share * ranks : elements);
  float* part = written(share);
  double* us = malloc((size_t)calls * sizeof(double));
  for (long i = -3; i < calls; ++i) {
    const double begin = MPI_Wtime();
    call(operation, whole, elements, part, share);
    if (i >= 0) us[i] = (MPI_Wtime() - begin) * 1e6;
  }
  MPI_Allreduce(MPI_IN_PLACE, us, (int)calls, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  qsort(us, (size_t)calls, sizeof(double), ascending);
  if (rank == 0) printf("{\"bytes\": %ld, \"p50_us\": %.3f, \"p10_us\": %.3f}\n", bytes, us[calls / 2], us[calls / 10]);
  free(us);
  free(part);
  free(whole);
}

int main(int argc, char** argv) {
  const long sizes[] = {8, 64, 512, 4096, 16384, 65536, 262144, 1L << 20, 4L << 20, 16L << 20, 64L << 20};
  int rank, ranks;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  if (argc != 2) MPI_Abort(MPI_COMM_WORLD, 2);
  for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); ++i) measure(argv[1], sizes[i], rank, ranks);
  MPI_Finalize();
  return 0;
}
