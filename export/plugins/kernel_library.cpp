#include "kernel_library.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <utility>

// kernels.bin, embedded by kernels.S.
extern "C" unsigned char const lavit_kernels[];

namespace lavit
{
namespace
{

using nvinfer1::DataType;

constexpr char const* kENTRY = "less_attention_kernel";
constexpr std::uintptr_t kALIGNMENT = 16; // bytes; compile_kernels.py's _ALIGNMENT

constexpr Kernel kKERNELS[] = {
#include "kernel_table.inc"
};

// From this generation on, Triton compiles for one device alone.
constexpr int32_t kFIRST_EXACT_TARGET = 90;

bool runsOn(int32_t target, int32_t capability)
{
    return target == capability
        || (capability < kFIRST_EXACT_TARGET && target / 10 == capability / 10 && target < capability);
}

int32_t blocks(int32_t size, int32_t block)
{
    return (size + block - 1) / block;
}

std::string message(char const* doing, cudaError_t error)
{
    return std::string{doing} + ": " + cudaGetErrorString(error);
}

// A loaded kernel belongs to no context, so one table serves the process; only the permission to use
// more shared memory than usual is given per device.
class Loader
{
public:
    std::string load(Kernel const& kernel, int32_t device, cudaKernel_t& handle)
    {
        std::lock_guard<std::mutex> const lock{mMutex};
        auto const key = std::make_pair(&kernel, device);
        if (auto const found = mKernels.find(key); found != mKernels.end())
        {
            handle = found->second;
            return {};
        }
        cudaLibrary_t library{};
        auto error = cudaLibraryLoadData(
            &library, lavit_kernels + kernel.offset, nullptr, nullptr, 0, nullptr, nullptr, 0);
        if (error != cudaSuccess)
        {
            return message("loading the kernel", error);
        }
        error = cudaLibraryGetKernel(&handle, library, kENTRY);
        if (error == cudaSuccess)
        {
            error = cudaFuncSetAttribute(static_cast<void const*>(handle),
                cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.sharedBytes);
        }
        if (error != cudaSuccess)
        {
            static_cast<void>(cudaLibraryUnload(library));
            return message("preparing the kernel", error);
        }
        mKernels.emplace(key, handle);
        return {};
    }

private:
    std::mutex mMutex;
    std::map<std::pair<Kernel const*, int32_t>, cudaKernel_t> mKernels;
};

Loader& loader()
{
    // Never destroyed: at exit the CUDA runtime may be gone before us, and it frees the code itself.
    static auto* const kLOADER = new Loader;
    return *kLOADER;
}

std::string currentDevice(int32_t& device, int32_t& capability)
{
    int32_t major{};
    int32_t minor{};
    auto error = cudaGetDevice(&device);
    if (error == cudaSuccess)
    {
        error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    }
    if (error == cudaSuccess)
    {
        error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    }
    capability = major * 10 + minor;
    return error == cudaSuccess ? std::string{} : message("asking for the device", error);
}

} // namespace

bool typesSupported(DataType scores, DataType values) noexcept
{
    return std::any_of(std::begin(kKERNELS), std::end(kKERNELS),
        [=](Kernel const& kernel) { return kernel.scores == scores && kernel.values == values; });
}

Kernel const* chooseKernel(int32_t capability, Problem const& problem) noexcept
{
    // The table has the most special kernel of a target first; of several targets that a device
    // runs, the nearest is best.
    Kernel const* best = nullptr;
    for (auto const& kernel : kKERNELS)
    {
        bool const fits = runsOn(kernel.target, capability) && kernel.scores == problem.scores
            && kernel.values == problem.values && problem.keys <= kernel.mostKeys
            && problem.tokens % kernel.alignedTokens == 0;
        if (fits && (best == nullptr || kernel.target > best->target))
        {
            best = &kernel;
        }
    }
    return best;
}

std::string targets()
{
    std::string list;
    int32_t last = 0;
    for (auto const& kernel : kKERNELS)
    {
        if (kernel.target != last)
        {
            last = kernel.target;
            list += (list.empty() ? "" : " ") + std::to_string(last);
        }
    }
    return list;
}

namespace
{

// What a kernel cannot be called with; empty if it can. The kernels count within one picture in 32
// bits, and were compiled for addresses that are multiples of 16: others would end the process's use
// of the GPU.
std::string obstacle(Problem const& problem, Operands const& operands, int64_t programs)
{
    constexpr int64_t kMOST = std::numeric_limits<int32_t>::max();
    int64_t const n = problem.tokens;
    int64_t const m = problem.keys;
    int64_t const d = problem.channels;
    auto const largest = std::max({n * n, n * m, m * m, problem.heads * n * d, problem.heads * m * d, programs});
    if (largest > kMOST)
    {
        return "the shapes are too large: the kernels count to " + std::to_string(kMOST);
    }
    for (void const* const address : {operands.scores, operands.queries, operands.keys, operands.constant,
             operands.values, static_cast<void const*>(operands.out), static_cast<void const*>(operands.newScores)})
    {
        if (reinterpret_cast<std::uintptr_t>(address) % kALIGNMENT != 0)
        {
            return "an address is no multiple of " + std::to_string(kALIGNMENT);
        }
    }
    return {};
}

} // namespace

std::string launch(Problem const& problem, Operands const& operands, cudaStream_t stream)
{
    int32_t device{};
    int32_t capability{};
    if (auto error = currentDevice(device, capability); !error.empty())
    {
        return error;
    }
    auto const* const kernel = chooseKernel(capability, problem);
    if (kernel == nullptr)
    {
        return "this library has kernels for compute capability " + targets() + " (ten times), not for "
            + std::to_string(capability);
    }
    if (problem.batch == 0)
    {
        return {};
    }
    int64_t const rowBlocks = blocks(problem.tokens, kernel->blockTokens);
    int64_t const programs = int64_t{problem.batch} * problem.heads * rowBlocks;
    if (auto error = obstacle(problem, operands, programs); !error.empty())
    {
        return error;
    }
    cudaKernel_t handle{};
    if (auto error = loader().load(*kernel, device, handle); !error.empty())
    {
        return error;
    }

    // Tensors are linear: [B, H, M, d] and [B, H, N, d].
    auto pointers = std::array<void const*, 7>{operands.scores, operands.queries, operands.keys,
        operands.constant, operands.values, operands.out, operands.newScores};
    int32_t const d = problem.channels;
    auto numbers = std::array<int32_t, 11>{problem.tokens, problem.keys, d, problem.heads,
        problem.heads * problem.keys * d, problem.keys * d, d, problem.heads * problem.tokens * d,
        problem.tokens * d, d, operands.newScores != nullptr ? 1 : 0};
    void* scratch = nullptr; // Triton's last two arguments, unused by this kernel

    std::array<void*, 20> arguments{};
    auto next = arguments.begin();
    for (auto& pointer : pointers)
    {
        *next++ = static_cast<void*>(&pointer);
    }
    for (auto& number : numbers)
    {
        *next++ = &number;
    }
    *next++ = &scratch;
    *next++ = &scratch;

    dim3 const grid(static_cast<unsigned>(programs), static_cast<unsigned>(blocks(d, kernel->blockChannels)));
    dim3 const block(static_cast<unsigned>(kernel->threads));
    auto const error = cudaLaunchKernel(static_cast<void const*>(handle), grid, block, arguments.data(),
        static_cast<std::size_t>(kernel->sharedBytes), stream);
    return error == cudaSuccess ? std::string{} : message("launching the kernel", error);
}

} // namespace lavit
