// Messages of the plugin, in the log of the TensorRT that loaded it.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace lavit
{

// Where to find TensorRT's logger; null before the library is registered.
void setFinder(nvinfer1::ILoggerFinder* finder) noexcept;

// Logs an error of a layer. Without a logger the message goes to standard error.
void logError(std::string const& layer, std::string const& message) noexcept;

} // namespace lavit
