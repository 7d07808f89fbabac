/* A stand-in for NVIDIA's driver library, so that everything up to the driver call runs where there is no GPU.

   It says it is an H200 and implements the entry points that Triton's launcher calls. Nothing is computed: a launch is
   checked by the rules of the CUDA driver API that a kernel of ours could break, and written down, one JSON object a
   line, into the file that STUB_DRIVER_LOG names. What a kernel's parameters are (their sizes and offsets) and how many
   threads it must be started with is read from the cubin itself, as the real driver does it: the section
   .nv.info.KERNEL, whose attributes `cuobjdump -elf` prints under these names. */
#include <cuda.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROCESSORS = 132, SHARED_OF_BLOCK = 227 * 1024, SHARED_OF_PROCESSOR = 228 * 1024, RESERVED = 1024 };
enum { MAX_PARAMETERS = 512, MAX_GRID_X = 0x7fffffff, MAX_GRID_YZ = 65535, MAX_THREADS = 1024 };
enum { SIZED = 4, PARAMETER = 0x17, LEAST_THREADS = 0x10, MOST_THREADS = 0x05, REGISTERS = 0x2f };

typedef struct {
  const char *image;
} Module;

typedef struct {
  char name[256];
  int count, size[MAX_PARAMETERS], offset[MAX_PARAMETERS];
  int required, most, registers, shared, allowed;
} Function;

int stub_quiet; /* set while launches are timed: they are then neither checked nor written down */

static int current; /* whether a context is current */
static long maps;   /* tensor maps encoded */

static FILE *log_file(void) {
  static FILE *file;
  const char *path = getenv("STUB_DRIVER_LOG");
  if (!file && path)
    file = fopen(path, "a");
  return file ? file : stderr;
}

/* ---- reading a cubin ------------------------------------------------------------------------------------- */

static const Elf64_Shdr *section(const char *image, const char *name) {
  const Elf64_Ehdr *head = (const void *)image;
  const Elf64_Shdr *all = (const void *)(image + head->e_shoff);
  const char *names = image + all[head->e_shstrndx].sh_offset;
  for (int i = 0; i < head->e_shnum; ++i)
    if (!strcmp(names + all[i].sh_name, name))
      return &all[i];
  return NULL;
}

static uint64_t bytes_of(const char *image) {
  const Elf64_Ehdr *head = (const void *)image;
  const Elf64_Shdr *all = (const void *)(image + head->e_shoff);
  uint64_t end = head->e_shoff + (uint64_t)head->e_shnum * head->e_shentsize;
  uint64_t last = head->e_phoff + (uint64_t)head->e_phnum * head->e_phentsize;
  end = last > end ? last : end;
  for (int i = 0; i < head->e_shnum; ++i) {
    uint64_t stop = all[i].sh_type == SHT_NOBITS ? 0 : all[i].sh_offset + all[i].sh_size;
    end = stop > end ? stop : end;
  }
  return end;
}

/* An attribute is its format, its number and 16 bits, which are its value or the size of what follows. */
static void attributes(const char *image, const char *name, Function *found) {
  const Elf64_Shdr *info = section(image, name);
  const unsigned char *at = info ? (const void *)(image + info->sh_offset) : NULL;
  const unsigned char *end = info ? at + info->sh_size : NULL;
  while (at && at + 4 <= end) {
    unsigned format = at[0], number = at[1];
    uint16_t value;
    memcpy(&value, at + 2, 2);
    const unsigned char *data = at + 4;
    uint32_t words[3] = {0, 0, 0};
    if (format == SIZED)
      memcpy(words, data, value < 12 ? value : 12);
    if (number == PARAMETER && format == SIZED) {
      int ordinal = words[1] & 0xffff;
      found->offset[ordinal] = words[1] >> 16;
      found->size[ordinal] = words[2] >> 18;
      found->count = ordinal + 1 > found->count ? ordinal + 1 : found->count;
    } else if (number == LEAST_THREADS && format == SIZED) {
      found->required = words[0];
    } else if (number == MOST_THREADS && format == SIZED) {
      found->most = words[0];
    } else if (number == REGISTERS && format == SIZED) {
      found->registers = words[1];
    }
    at = data + (format == SIZED ? value : 0);
  }
}

/* ---- devices, contexts, modules -------------------------------------------------------------------------- */

CUresult cuInit(unsigned flags) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int number) { return *device = number, number ? CUDA_ERROR_INVALID_DEVICE : 0; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  return *context = (CUcontext)&current, CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext context) { return current = context != NULL, CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *context) {
  return *context = current ? (CUcontext)&current : NULL, CUDA_SUCCESS;
}
CUresult cuCtxGetLimit(size_t *value, CUlimit limit) { return *value = 0, CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit limit, size_t value) { return CUDA_SUCCESS; }

CUresult cuGetErrorString(CUresult error, const char **text) {
  *text = error == CUDA_ERROR_INVALID_VALUE ? "invalid argument" : "an error of the stub driver";
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = SHARED_OF_BLOCK; break;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = SHARED_OF_PROCESSOR; break;
  case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = 65536; break;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = PROCESSORS; break;
  case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
  case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: *value = 1980000; break;
  case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: *value = 3201000; break;
  case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: *value = 6144; break;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
  default: return CUDA_ERROR_NOT_SUPPORTED;
  }
  return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  if (!current)
    return CUDA_ERROR_INVALID_CONTEXT;
  if (memcmp(image, ELFMAG, SELFMAG))
    return CUDA_ERROR_INVALID_IMAGE;
  uint64_t bytes = bytes_of(image);
  Module *made = malloc(sizeof *made);
  char *kept = malloc(bytes);
  memcpy(kept, image, bytes);
  made->image = kept;
  *module = (CUmodule)made;
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  const char *image = ((Module *)module)->image;
  char title[300];
  snprintf(title, sizeof title, ".text.%s", name);
  if (!section(image, title))
    return CUDA_ERROR_NOT_FOUND;
  Function *found = calloc(1, sizeof *found);
  snprintf(found->name, sizeof found->name, "%s", name);
  snprintf(title, sizeof title, ".nv.shared.%s", name);
  const Elf64_Shdr *fixed = section(image, title);
  found->shared = fixed ? fixed->sh_size : 0;
  found->allowed = 48 * 1024;
  found->most = MAX_THREADS;
  attributes(image, ".nv.info", found);
  snprintf(title, sizeof title, ".nv.info.%s", name);
  attributes(image, title, found);
  found->most = found->required ? found->required : found->most;
  *function = (CUfunction)found;
  fprintf(log_file(), "{\"event\": \"load\", \"kernel\": \"%s\", \"bytes\": %llu, \"registers\": %d, \"image\": %llu}\n",
          name, (unsigned long long)bytes_of(image), found->registers, (unsigned long long)(uintptr_t)image);
  fflush(log_file());
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
  const Function *f = (const Function *)function;
  switch (attribute) {
  case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = f->registers; break;
  case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *value = 0; break;
  case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = f->most; break;
  case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = f->shared; break;
  default: return CUDA_ERROR_NOT_SUPPORTED;
  }
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  Function *f = (Function *)function;
  if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    if (value < 0 || value + f->shared > SHARED_OF_BLOCK)
      return CUDA_ERROR_INVALID_VALUE;
    f->allowed = value;
  }
  return CUDA_SUCCESS;
}

CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) { return CUDA_SUCCESS; }

CUresult cuOccupancyMaxActiveClusters(int *clusters, CUfunction function, const CUlaunchConfig *config) {
  return *clusters = PROCESSORS, CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  if (attribute != CU_POINTER_ATTRIBUTE_DEVICE_POINTER)
    return CUDA_ERROR_NOT_SUPPORTED;
  return *(CUdeviceptr *)data = pointer, CUDA_SUCCESS;
}

/* ---- tensor maps: the rules are those the driver API states for cuTensorMapEncodeTiled --------------------- */

static int span(CUtensorMapSwizzle swizzle) {
  switch (swizzle) {
  case CU_TENSOR_MAP_SWIZZLE_32B: return 32;
  case CU_TENSOR_MAP_SWIZZLE_64B: return 64;
  case CU_TENSOR_MAP_SWIZZLE_128B: return 128;
  default: return 0;
  }
}

static int size_of(CUtensorMapDataType type) {
  switch (type) {
  case CU_TENSOR_MAP_DATA_TYPE_UINT8: return 1;
  case CU_TENSOR_MAP_DATA_TYPE_UINT16:
  case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
  case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16: return 2;
  case CU_TENSOR_MAP_DATA_TYPE_UINT32:
  case CU_TENSOR_MAP_DATA_TYPE_INT32:
  case CU_TENSOR_MAP_DATA_TYPE_FLOAT32: return 4;
  default: return 8;
  }
}

static void list(const char *name, int count, const uint64_t *values) {
  fprintf(log_file(), ", \"%s\": [", name);
  for (int i = 0; i < count; ++i)
    fprintf(log_file(), "%s%llu", i ? ", " : "", (unsigned long long)values[i]);
  fprintf(log_file(), "]");
}

static const char *broken(CUtensorMapDataType type, unsigned rank, const void *base, const cuuint64_t *extents,
                          const cuuint64_t *strides, const cuuint32_t *box, const cuuint32_t *steps, int swizzled) {
  if (rank < 1 || rank > 5)
    return "rank";
  if ((uintptr_t)base % 16)
    return "base";
  for (unsigned i = 0; i < rank; ++i) {
    if (extents[i] < 1 || extents[i] > (1ull << 32))
      return "extent";
    if (box[i] < 1 || box[i] > 256)
      return "box";
    if (steps[i] < 1 || steps[i] > 8)
      return "element stride";
    if (i + 1 < rank && (strides[i] % 16 || strides[i] >= (1ull << 40)))
      return "stride";
  }
  if (box[0] * size_of(type) % 16)
    return "bytes of the box's rows";
  return swizzled && box[0] * size_of(type) > (unsigned)swizzled ? "the box's rows are longer than the swizzle" : NULL;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *base,
                                const cuuint64_t *extents, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  if (stub_quiet)
    return CUDA_SUCCESS;
  const char *problem = broken(type, rank, base, extents, strides, box, steps, span(swizzle));
  uint64_t boxes[5], stepped[5];
  for (unsigned i = 0; i < rank && i < 5; ++i)
    boxes[i] = box[i], stepped[i] = steps[i];
  memset(map, 0, sizeof *map);
  memcpy(map, &(uint64_t){++maps}, 8); /* so that a launch's bytes say which map it was given */
  fprintf(log_file(), "{\"event\": \"map\", \"number\": %ld, \"type\": %d, \"base\": %llu", maps, (int)type,
          (unsigned long long)(uintptr_t)base);
  list("extents", rank, extents);
  list("strides", rank - 1, strides);
  list("box", rank, boxes);
  list("steps", rank, stepped);
  fprintf(log_file(), ", \"interleave\": %d, \"swizzle\": %d, \"promotion\": %d, \"fill\": %d, \"problem\": \"%s\"}\n",
          (int)interleave, span(swizzle), (int)promotion, (int)fill, problem ? problem : "");
  fflush(log_file());
  return problem ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* ---- launches -------------------------------------------------------------------------------------------- */

static const char *refused(const Function *f, const CUlaunchConfig *c) {
  unsigned threads = c->blockDimX * c->blockDimY * c->blockDimZ;
  if (!c->gridDimX || !c->gridDimY || !c->gridDimZ || c->gridDimX > MAX_GRID_X || c->gridDimY > MAX_GRID_YZ ||
      c->gridDimZ > MAX_GRID_YZ)
    return "grid";
  if (!threads || threads > (unsigned)f->most || threads > MAX_THREADS)
    return "threads";
  if (f->required && threads != (unsigned)f->required)
    return "not the number of threads that the kernel was compiled for";
  if (c->sharedMemBytes > (unsigned)f->allowed || c->sharedMemBytes + f->shared > SHARED_OF_BLOCK)
    return "shared memory";
  if ((f->registers + 7) / 8 * 8 * threads > 65536)
    return "registers";
  return NULL;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction function, void **parameters, void **extra) {
  if (stub_quiet)
    return CUDA_SUCCESS;
  const Function *f = (const Function *)function;
  const char *problem = current ? refused(f, c) : "no context";
  FILE *out = log_file();
  fprintf(out, "{\"event\": \"launch\", \"kernel\": \"%s\", \"grid\": [%u, %u, %u], \"block\": [%u, %u, %u], ", f->name,
          c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX, c->blockDimY, c->blockDimZ);
  fprintf(out, "\"shared\": %u, \"stream\": %llu, \"attributes\": [", c->sharedMemBytes,
          (unsigned long long)(uintptr_t)c->hStream);
  for (unsigned i = 0; i < c->numAttrs; ++i)
    fprintf(out, "%s%d", i ? ", " : "", (int)c->attrs[i].id);
  fprintf(out, "], \"parameters\": [");
  for (int i = 0; i < f->count; ++i) {
    const unsigned char *bytes = parameters[i];
    fprintf(out, "%s\"", i ? ", " : "");
    for (int k = 0; k < f->size[i]; ++k)
      fprintf(out, "%02x", bytes[k]);
    fprintf(out, "\"");
  }
  fprintf(out, "], \"problem\": \"%s\"}\n", problem ? problem : "");
  fflush(out);
  return problem ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
