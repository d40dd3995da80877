// The plugin's launch with a CUDA runtime that only takes notes: what would be run on a GPU.
//   plugin_host CAPABILITY BATCH HEADS TOKENS KEYS CHANNELS WITH_SCORES [ADDRESS OF THE SCORES]
// prints grid, threads, shared memory and the kernel's numbers.
#include "kernel_library.hpp"

#include <cstdio>
#include <cstdlib>

namespace
{
int gCapability = 0;
int gAllowed = 0;
int gLoaded = 0;
} // namespace

extern "C"
{
cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int)
{
    *value = which == cudaDevAttrComputeCapabilityMajor ? gCapability / 10 : gCapability % 10;
    return cudaSuccess;
}
cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, void const* code, cudaJitOption*, void**, unsigned,
    cudaLibraryOption*, void**, unsigned)
{
    ++gLoaded;
    *library = static_cast<cudaLibrary_t>(const_cast<void*>(code));
    auto const* const bytes = static_cast<unsigned char const*>(code);
    return bytes[0] == 0x7f && bytes[1] == 'E' ? cudaSuccess : cudaErrorInvalidKernelImage;
}
cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t library, char const*)
{
    *kernel = reinterpret_cast<cudaKernel_t>(library);
    return cudaSuccess;
}
cudaError_t cudaLibraryUnload(cudaLibrary_t) { return cudaSuccess; }
cudaError_t cudaFuncSetAttribute(void const*, cudaFuncAttribute, int value) { gAllowed = value; return cudaSuccess; }
char const* cudaGetErrorString(cudaError_t) { return "an error"; }
cudaError_t cudaLaunchKernel(void const*, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t)
{
    std::printf("%u %u %u %u %zu %d", grid.x, grid.y, grid.z, block.x, shared, gAllowed);
    for (int i = 0; i < 7; ++i)
    {
        std::printf(" %zu", reinterpret_cast<size_t>(*static_cast<void**>(arguments[i])));
    }
    for (int i = 7; i < 18; ++i)
    {
        std::printf(" %d", *static_cast<int*>(arguments[i]));
    }
    std::printf(" %d\n", *static_cast<void**>(arguments[18]) == nullptr && *static_cast<void**>(arguments[19]) == nullptr);
    return cudaSuccess;
}
}

int main(int count, char** given)
{
    gCapability = std::atoi(given[1]);
    lavit::Problem const problem{nvinfer1::DataType::kHALF, nvinfer1::DataType::kHALF, std::atoi(given[2]),
        std::atoi(given[3]), std::atoi(given[4]), std::atoi(given[5]), std::atoi(given[6])};
    auto const at = [](size_t place) { return reinterpret_cast<void*>(place); };
    lavit::Operands const operands{
        at(count > 8 ? std::strtoul(given[8], nullptr, 10) : 16), at(32), at(48), at(64), at(80), at(96), std::atoi(given[7]) != 0 ? at(112) : nullptr};
    for (int call = 0; call < 2; ++call)
    {
        auto const fault = lavit::launch(problem, operands, nullptr);
        if (!fault.empty())
        {
            std::printf("%s\n", fault.c_str());
            return 1;
        }
    }
    std::printf("loaded %d\n", gLoaded);
    return 0;
}
