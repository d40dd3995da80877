// The less-attention kernels inside this library: which there are, which one fits, how it is called.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace lavit
{

// Sizes and element types of one call; letters as in docs/plugin.md.
struct Problem
{
    nvinfer1::DataType scores;
    nvinfer1::DataType values;
    int32_t batch;
    int32_t heads;
    int32_t tokens;   // N
    int32_t keys;     // M
    int32_t channels; // d
};

// One compiled kernel; a row of the table that compile_kernels.py writes.
struct Kernel
{
    int32_t target; // compute capability, ten times
    nvinfer1::DataType scores;
    nvinfer1::DataType values;
    int32_t mostKeys;
    int32_t alignedTokens; // N must be a multiple of this
    int32_t blockTokens;
    int32_t blockChannels;
    int32_t threads;
    int32_t sharedBytes;
    std::size_t offset; // into the embedded file
    std::size_t size;
};

// Addresses on the device. `newScores` may be null.
struct Operands
{
    void const* scores;
    void const* queries;
    void const* keys;
    void const* constant;
    void const* values;
    void* out;
    void* newScores;
};

// Whether kernels take this pair of element types.
[[nodiscard]] bool typesSupported(nvinfer1::DataType scores, nvinfer1::DataType values) noexcept;

// The kernel for a problem on a device of this compute capability (ten times), or null: code for 80
// and its like also runs on later devices of the same generation, code for 90 and 120 on no other.
[[nodiscard]] Kernel const* chooseKernel(int32_t capability, Problem const& problem) noexcept;

// The compute capabilities that this library has kernels for, such as "80 86 90".
[[nodiscard]] std::string targets();

// Runs the kernel for a problem on the current device. Gives what went wrong; empty if nothing did.
[[nodiscard]] std::string launch(Problem const& problem, Operands const& operands, cudaStream_t stream);

} // namespace lavit
