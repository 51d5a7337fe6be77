// Post-processing on the GPU, equal to engines/postprocess.py and engines/nms.py bit for bit.
//
// Compile without contraction of a * b + c (-fmad=false): NumPy rounds the product. Where one rounding is meant,
// __fmaf_rn says so. Nothing here depends on the order in which threads run: candidates are sorted by a key that no two
// share, so where atomicAdd puts them does not matter.

typedef unsigned long long Key;

enum Decoder { YOLOX = 0, YOLOV5 = 1, YOLOV8 = 2, LTRB = 3 };
enum Counter { CANDIDATES = 0, NOT_FINITE = 1, KEPT = 2 };

#define THREAD (blockIdx.x * blockDim.x + threadIdx.x)

static __device__ __forceinline__ float largest(float a, float b) { return a > b ? a : b; }

static __device__ __forceinline__ float smallest(float a, float b) { return a < b ? a : b; }

static __device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

// See engines/exact_exp.py.
static __device__ float exact_exp(float x) {
  const double terms[] = {1 / 6227020800.0, 1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0,
                          1 / 40320.0,      1 / 5040.0,      1 / 720.0,      1 / 120.0,     1 / 24.0,
                          1 / 6.0,          1 / 2.0,         1.0,            1.0};
  double wide = x > -150.0f ? (double)x : -150.0;
  double power = rint(wide * 1.4426950408889634);
  double rest = (wide - power * 0.6931471803691238) - power * 1.9082149292705877e-10;
  double series = terms[0];
  for (int i = 1; i < 14; ++i) series = series * rest + terms[i];
  return (float)(series * __longlong_as_double(((long long)power + 1023) << 52));
}

static __device__ float sigmoid(float x) {
  float decay = exact_exp(x < 0 ? x : -x);
  return (x >= 0 ? 1.0f : decay) / (1.0f + decay);
}

// Ascending keys are descending scores, ties in the order of the rows.
static __device__ Key sort_key(float score, int row) {
  unsigned bits = __float_as_uint(-score + 0.0f);
  bits ^= bits & 0x80000000u ? 0xffffffffu : 0x80000000u;
  return (Key)bits << 32 | (unsigned)row;
}

extern "C" __global__ void reset(int* counters) {
  if (THREAD < 4) counters[THREAD] = 0;
}

// One thread an anchor: its best class, and its box where the score reaches the threshold.
// `cells` are (anchors, 3): x and y of the cell in strides, and the stride.
extern "C" __global__ void decode(const float* output, const float* cells, int anchors, int width, int decoder,
                                  float threshold, int* counters, Key* keys, float* boxes, float* scores, int* labels) {
  int anchor = THREAD;
  if (anchor >= anchors) return;
  long long next = decoder == YOLOV8 ? anchors : 1;
  const float* row = output + (decoder == YOLOV8 ? (long long)anchor : (long long)anchor * width);
  int first = decoder <= YOLOV5 ? 5 : 4, bad = 0, label = 0;
  for (int i = 0; i < first; ++i) bad += !is_finite(row[i * next]);
  float score = row[first * next];
  bad += !is_finite(score);
  for (int i = first + 1; i < width; ++i) {
    float value = row[i * next];
    bad += !is_finite(value);
    if (value > score) {
      score = value;
      label = i - first;
    }
  }
  if (bad) {
    atomicAdd(counters + NOT_FINITE, bad);
    return;
  }
  if (decoder == LTRB) score = sigmoid(score);
  if (first == 5) score = score * row[4 * next];
  if (!(score >= threshold)) return;
  int slot = atomicAdd(counters + CANDIDATES, 1);
  keys[slot] = sort_key(score, anchor);
  scores[slot] = score;
  labels[slot] = label;
  for (int side = 0; side < 2; ++side) {
    float place = row[side * next], size = row[(side + 2) * next], low, high;
    float cell = cells[3 * anchor + side], stride = cells[3 * anchor + 2];
    if (decoder == LTRB) {
      float center = (cell + 0.5f) * stride;
      low = center - place * stride;
      high = center + size * stride;
    } else {
      float half = decoder == YOLOX ? exact_exp(smallest(size, 80.0f)) * stride / 2 : size / 2;
      float center = decoder == YOLOX ? (place + cell) * stride : place;
      low = center - half;
      high = center + half;
    }
    boxes[4 * slot + side] = smallest(largest(low, -1e6f), 1e6f);
    boxes[4 * slot + side + 2] = smallest(largest(high, -1e6f), 1e6f);
  }
}

// One thread a candidate: its place is the number of keys below its own.
extern "C" __global__ void sort_candidates(const int* counters, const Key* keys, const float* boxes,
                                           const float* scores, const int* labels, float* sorted_boxes,
                                           float* sorted_scores, int* sorted_labels) {
  int slot = THREAD, count = counters[CANDIDATES], place = 0;
  if (slot >= count) return;
  Key key = keys[slot];
  for (int i = 0; i < count; ++i) place += keys[i] < key;
  for (int i = 0; i < 4; ++i) sorted_boxes[4 * place + i] = boxes[4 * slot + i];
  sorted_scores[place] = scores[slot];
  sorted_labels[place] = labels[slot];
}

static __device__ bool overlap(const float* a, const float* b, float iou) {
  float width = smallest(a[2], b[2]) - largest(a[0], b[0]), height = smallest(a[3], b[3]) - largest(a[1], b[1]);
  float shared = largest(width, 0.0f) * largest(height, 0.0f);
  float area_a = largest(a[2] - a[0], 0.0f) * largest(a[3] - a[1], 0.0f);
  float area_b = largest(b[2] - b[0], 0.0f) * largest(b[3] - b[1], 0.0f);
  return shared > (area_a + area_b - shared) * iou;
}

// One block. The threads walk down the candidates together; each kept one removes those after it that it overlaps.
// No thread reads what another may be writing: all read up to the next one kept, all write behind it.
extern "C" __global__ void suppress(int* counters, const float* boxes, const float* scores, const int* labels,
                                    float iou, int most, unsigned char* removed, float* kept_boxes, float* kept_scores,
                                    int* kept_labels) {
  int count = counters[CANDIDATES], kept = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) removed[i] = 0;
  __syncthreads();
  for (int i = 0; i < count && kept < most; ++i) {
    if (removed[i]) continue;
    if (threadIdx.x == 0) {
      for (int side = 0; side < 4; ++side) kept_boxes[4 * kept + side] = boxes[4 * i + side];
      kept_scores[kept] = scores[i];
      kept_labels[kept] = labels[i];
    }
    ++kept;
    for (int j = i + 1 + threadIdx.x; j < count; j += blockDim.x)
      if (!removed[j] && labels[j] == labels[i] && overlap(boxes + 4 * i, boxes + 4 * j, iou)) removed[j] = 1;
    __syncthreads();
  }
  if (threadIdx.x == 0) counters[KEPT] = kept;
}

extern "C" __global__ void count_not_finite(const float* values, int size, int* counters) {
  if (THREAD < (unsigned)size && !is_finite(values[THREAD])) atomicAdd(counters + NOT_FINITE, 1);
}

// One thread a pixel: the class of its largest logit, of logits resized bilinearly as OpenCV 5 does.
// `left` and `top` are the first of the two columns and rows that are mixed, `right_part` and `lower_part` how much of
// the second.
extern "C" __global__ void class_map(const float* logits, int classes, int height, int width, int rows, int columns,
                                     const int* left, const float* right_part, const int* top, const float* lower_part,
                                     unsigned char* map) {
  int pixel = THREAD;
  if (pixel >= rows * columns) return;
  int x = pixel % columns, y = pixel / columns;
  int x0 = left[x], x1 = x0 + 1 < width ? x0 + 1 : x0, y0 = top[y], y1 = y0 + 1 < height ? y0 + 1 : y0;
  int label = 0;
  float best = 0.0f;
  for (int i = 0; i < classes; ++i) {
    const float* plane = logits + (long long)i * height * width;
    const float *upper = plane + y0 * width, *lower = plane + y1 * width;
    float above = __fmaf_rn(upper[x1] - upper[x0], right_part[x], upper[x0]);
    float below = __fmaf_rn(lower[x1] - lower[x0], right_part[x], lower[x0]);
    float value = __fmaf_rn(below - above, lower_part[y], above);
    if (i == 0 || value > best) {
      best = value;
      label = i;
    }
  }
  map[pixel] = (unsigned char)label;
}
