// liblavit_plugin_autoload.so: brings the plugin to programs that only open a library and expect it
// to register itself, as ONNX Runtime's TensorRT provider and Triton Inference Server do.
//
// Kept apart from the plugin: TensorRT itself registers what it loads, and would find it there twice.

#include <NvInferRuntime.h>

#include <dlfcn.h>

#include <cstdio>
#include <string>

namespace
{

using GetRegistry = nvinfer1::IPluginRegistry* (*)();

// The registry of the TensorRT that is in this process already, or null.
nvinfer1::IPluginRegistry* findRegistry()
{
    for (auto const* name : {"libnvinfer.so.11", "libnvinfer.so.10", "libtensorrt_rtx.so.1"})
    {
        if (void* const library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD))
        {
            auto const get = reinterpret_cast<GetRegistry>(dlsym(library, "getPluginRegistry"));
            return get == nullptr ? nullptr : get();
        }
    }
    return nullptr;
}

__attribute__((constructor)) void load()
{
    auto* const registry = findRegistry();
    Dl_info self{};
    if (registry == nullptr || dladdr(reinterpret_cast<void const*>(&load), &self) == 0)
    {
        std::fputs("liblavit_plugin_autoload.so: TensorRT is not in this process yet; no plugin is registered\n", stderr);
        return;
    }
    std::string path{self.dli_fname};
    auto const slash = path.rfind('/');
    path = (slash == std::string::npos ? std::string{} : path.substr(0, slash + 1)) + "liblavit_plugin.so";
    if (registry->loadLibrary(path.c_str()) == nullptr)
    {
        std::fprintf(stderr, "liblavit_plugin_autoload.so: %s cannot be loaded\n", path.c_str());
    }
}

} // namespace
