// MPI_Allreduce of float32 in place, timed as bench/comm.py times furrow: one line of JSON per size.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int ascending(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static void measure(long bytes, int rank) {
  long calls = (256L << 20) / bytes;
  calls = calls < 8 ? 8 : calls > 3000 ? 3000 : calls;
  float* data = calloc(1, (size_t)bytes);
  double* us = malloc((size_t)calls * sizeof(double));
  for (long i = -3; i < calls; ++i) {
    const double begin = MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, data, (int)(bytes / 4), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    if (i >= 0) us[i] = (MPI_Wtime() - begin) * 1e6;
  }
  MPI_Allreduce(MPI_IN_PLACE, us, (int)calls, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  qsort(us, (size_t)calls, sizeof(double), ascending);
  if (rank == 0) printf("{\"bytes\": %ld, \"p50_us\": %.3f, \"p10_us\": %.3f}\n", bytes, us[calls / 2], us[calls / 10]);
  free(us);
  free(data);
}

int main(int argc, char** argv) {
  const long sizes[] = {8, 64, 512, 4096, 16384, 65536, 262144, 1L << 20, 4L << 20, 16L << 20, 64L << 20};
  int rank;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); ++i) measure(sizes[i], rank);
  MPI_Finalize();
  return 0;
}
