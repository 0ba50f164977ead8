// The statistics of all processes from those of each, as norm.h describes: what comes behind the exchange, in one launch.
#include "tiles.cuh"

namespace laconv {

struct CombineParameters {
  const float* every;  // (processes, 2 channels + 1): means, variances, count
  float* totals;       // (2 channels + 1)
  int64_t processes, channels;
};

// Around the common mean, so that nothing cancels (Chan, Golub and LeVeque 1983); processes in the order of their ranks.
__global__ void __launch_bounds__(THREADS, 4) norm_combine(const CombineParameters parameters) {
  const int64_t channels = parameters.channels, width = 2 * channels + 1;
  double total = 0;
  for (int64_t process = 0; process < parameters.processes; ++process)
    total += double(parameters.every[process * width + 2 * channels]);
  for (int64_t channel = int64_t(blockIdx.x) * THREADS + threadIdx.x; channel < channels;
       channel += int64_t(gridDim.x) * THREADS) {
    const float* const own = parameters.every + channel;
    double sum = 0, squares = 0;
    for (int64_t process = 0; process < parameters.processes; ++process)
      sum += double(own[process * width + 2 * channels - channel]) * double(own[process * width]);
    const double mean = sum / total;
    for (int64_t process = 0; process < parameters.processes; ++process) {
      const double apart = double(own[process * width]) - mean;
      const double count = double(own[process * width + 2 * channels - channel]);
      squares += count * (double(own[process * width + channels]) + apart * apart);
    }
    parameters.totals[channel] = float(mean);
    parameters.totals[channels + channel] = float(squares / total);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) parameters.totals[2 * channels] = float(total);
}

}  // namespace laconv

extern "C" __attribute__((visibility("default"))) int laconv_norm_combine_f32(const laconv_norm_args* args,
                                                                              void* stream) {
  using namespace laconv;
  if (!fits(*args)) return LACONV_BAD_SIZE;
  const CombineParameters parameters{static_cast<const float*>(args->x), args->totals, args->rows, args->channels};
  return launch(norm_combine, divided_up(args->channels, THREADS), 0, stream, parameters);
}
