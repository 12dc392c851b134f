// The dot products of all pairs of an example's vectors, and their gradient; `pairs.py` says what is where.
//
// One example at a time, in the core's first cache: its vectors are copied once, the products of four vectors with
// sixteen others are summed in registers, and what is written is what the next layer reads. The vector types are GCC's
// (and Clang's): a CPU without registers of 16 numbers does the same by several narrower ones.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t kLanes = 16, kTogether = 4;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Lanes load(const float* from) { return *reinterpret_cast<const Lanes*>(from); }
inline void store(float* to, Lanes lanes) { *reinterpret_cast<Lanes*>(to) = lanes; }

inline void convert(float* to, const float* from, int64_t count) { std::memcpy(to, from, count * sizeof(float)); }

// bfloat16 is the upper half of a float, rounded to the nearest, ties to even.
inline void convert(uint16_t* to, const float* from, int64_t count) {
  for (int64_t n = 0; n < count; ++n) {
    uint32_t bits;
    std::memcpy(&bits, from + n, sizeof(bits));
    const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    to[n] = is_nan ? 0x7FC0u : (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  }
}

inline void convert(float* to, const uint16_t* from, int64_t count) {
  for (int64_t n = 0; n < count; ++n) {
    const uint32_t bits = static_cast<uint32_t>(from[n]) << 16;
    std::memcpy(to + n, &bits, sizeof(bits));
  }
}

struct Shape {
  int64_t num_rows, num_parts, num_vectors, width, kept, stride;
  const int64_t* widths;  // of each part
  int num_threads;

  int64_t numbers() const { return num_vectors * width; }
  int64_t pairs() const { return num_vectors * (num_vectors - 1) / 2; }
};

void read(const Shape& shape, const float* const* parts, int64_t row, float* to) {
  for (int64_t part = 0; part < shape.num_parts; to += shape.widths[part++])
    std::memcpy(to, parts[part] + row * shape.widths[part], shape.widths[part] * sizeof(float));
}

template <typename Number>
void multiply(const Shape& shape, const float* const* parts, Number* outputs) {
  const int64_t count = shape.num_vectors, width = shape.width, numbers = shape.numbers(), kept = shape.kept;
  const int64_t columns = (count + kLanes - 1) / kLanes * kLanes, filled = kept + shape.pairs();
#pragma omp parallel num_threads(shape.num_threads)
  {
    // Groups of four go beyond the last vector, and lanes beyond the last pair.
    const int64_t own_size = numbers + kTogether * width, turned_size = width * columns;
    const int64_t square_size = (count + kTogether) * columns;
    std::vector<float> room(own_size + turned_size + square_size + filled + kLanes);
    float *own = room.data(), *turned = own + own_size, *square = turned + turned_size, *made = square + square_size;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < shape.num_rows; ++row) {
      read(shape, parts, row, own);
      for (int64_t vector = 0; vector < count; ++vector)
        for (int64_t d = 0; d < width; ++d) turned[d * columns + vector] = own[vector * width + d];
      for (int64_t vector = 1; vector < count; vector += kTogether)
        for (int64_t first = 0; first < vector + kTogether - 1; first += kLanes) {
          Lanes sums[kTogether] = {};
          for (int64_t d = 0; d < width; ++d) {
            const Lanes others = load(turned + d * columns + first);
            for (int64_t n = 0; n < kTogether; ++n) sums[n] += own[(vector + n) * width + d] * others;
          }
          for (int64_t n = 0; n < kTogether; ++n) store(square + (vector + n) * columns + first, sums[n]);
        }
      std::memcpy(made, own, kept * sizeof(float));
      // What is copied beyond the pairs of a vector, those of the next one cover.
      float* pairs = made + kept;
      for (int64_t vector = 1; vector < count; pairs += vector++)
        for (int64_t first = 0; first < vector; first += kLanes)
          store(pairs + first, load(square + vector * columns + first));
      convert(outputs + row * shape.stride, made, filled);
      std::memset(outputs + row * shape.stride + filled, 0, (shape.stride - filled) * sizeof(Number));
    }
  }
}

template <typename Number>
void differentiate(const Shape& shape, const float* const* parts, const Number* of_outputs, float* const* of_parts) {
  const int64_t count = shape.num_vectors, width = shape.width, numbers = shape.numbers(), kept = shape.kept;
  const int64_t filled = kept + shape.pairs();
#pragma omp parallel num_threads(shape.num_threads)
  {
    std::vector<float> room(2 * (numbers + kLanes) + filled);
    float *own = room.data(), *found = own + numbers + kLanes, *given = found + numbers + kLanes;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < shape.num_rows; ++row) {
      read(shape, parts, row, own);
      convert(given, of_outputs + row * shape.stride, filled);
      std::memcpy(found, given, kept * sizeof(float));
      std::memset(found + kept, 0, (numbers - kept) * sizeof(float));
      // A vector's gradient is the sum of all others times the gradients of its pairs with them: pair (k, j) with j < k
      // stands at k (k - 1) / 2 + j.
      const float* pairs = given + kept;
      for (int64_t first = 0; first < width; first += kLanes)
        for (int64_t vector = 0; vector < count; vector += kTogether) {
          const float* column = own + first;
          const int64_t together = count - vector < kTogether ? count - vector : kTogether;
          const float* with_earlier[kTogether];
          for (int64_t n = 0; n < kTogether; ++n) {
            const int64_t number = n < together ? vector + n : vector;
            with_earlier[n] = pairs + number * (number - 1) / 2;
          }
          Lanes sums[kTogether] = {};
          for (int64_t other = 0; other < vector; ++other) {
            const Lanes lanes = load(column + other * width);
            for (int64_t n = 0; n < kTogether; ++n) sums[n] += with_earlier[n][other] * lanes;
          }
          for (int64_t n = 0; n < together; ++n)
            for (int64_t m = 0; m < n; ++m) {
              const float between = with_earlier[n][vector + m];
              sums[n] += between * load(column + (vector + m) * width);
              sums[m] += between * load(column + (vector + n) * width);
            }
          for (int64_t other = vector + kTogether; other < count; ++other) {
            const Lanes lanes = load(column + other * width);
            const float* with_later = pairs + other * (other - 1) / 2 + vector;
            for (int64_t n = 0; n < kTogether; ++n) sums[n] += with_later[n] * lanes;
          }
          const int64_t lanes = width - first < kLanes ? width - first : kLanes;
          for (int64_t n = 0; n < together; ++n)
            for (int64_t lane = 0; lane < lanes; ++lane) found[(vector + n) * width + first + lane] += sums[n][lane];
        }
      const float* from = found;
      for (int64_t part = 0; part < shape.num_parts; from += shape.widths[part++])
        std::memcpy(of_parts[part] + row * shape.widths[part], from, shape.widths[part] * sizeof(float));
    }
  }
}

}  // namespace

extern "C" {

void multiply_float32(const Shape* shape, const float* const* parts, float* outputs) {
  multiply(*shape, parts, outputs);
}

void multiply_bfloat16(const Shape* shape, const float* const* parts, uint16_t* outputs) {
  multiply(*shape, parts, outputs);
}

void differentiate_float32(const Shape* shape, const float* const* parts, const float* of_outputs,
                           float* const* of_parts) {
  differentiate(*shape, parts, of_outputs, of_parts);
}

void differentiate_bfloat16(const Shape* shape, const float* const* parts, const uint16_t* of_outputs,
                            float* const* of_parts) {
  differentiate(*shape, parts, of_outputs, of_parts);
}

}  // extern "C"
