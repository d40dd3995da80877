// The functions that TensorRT, and this project's runtime, look for in the library.

#include "kernel_library.hpp"
#include "less_attention_plugin.hpp"
#include "logging.hpp"

#include <string>

#define LAVIT_EXPORT extern "C" __attribute__((visibility("default")))

LAVIT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder)
{
    lavit::setFinder(finder);
}

LAVIT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count)
{
    static lavit::LessAttentionCreator kCREATOR;
    static nvinfer1::IPluginCreatorInterface* const kCREATORS[] = {&kCREATOR};
    count = 1;
    return kCREATORS;
}

// Compute capabilities (ten times) with kernels in this library, such as "80 86 90".
LAVIT_EXPORT char const* lavitTargets()
{
    static std::string const kTARGETS = lavit::targets();
    return kTARGETS.c_str();
}

// major * 10000 + minor * 100 + patch of the TensorRT whose headers this was compiled with.
LAVIT_EXPORT int64_t lavitTensorRTVersion()
{
    return NV_TENSORRT_VERSION;
}
