#include "logging.hpp"

#include <atomic>
#include <cstdio>
#include <exception>

namespace lavit
{
namespace
{

std::atomic<nvinfer1::ILoggerFinder*> gFinder{nullptr};

} // namespace

void setFinder(nvinfer1::ILoggerFinder* finder) noexcept
{
    gFinder = finder;
}

void logError(std::string const& layer, std::string const& message) noexcept
{
    try
    {
        auto const text = "lavit::LessAttention" + (layer.empty() ? std::string{} : " " + layer) + ": " + message;
        auto* const finder = gFinder.load();
        auto* const logger = finder == nullptr ? nullptr : finder->findLogger();
        if (logger != nullptr)
        {
            logger->log(nvinfer1::ILogger::Severity::kERROR, text.c_str());
        }
        else
        {
            std::fprintf(stderr, "%s\n", text.c_str());
        }
    }
    catch (std::exception const&)
    {
        std::fputs("lavit::LessAttention failed, and so did saying why\n", stderr);
    }
}

} // namespace lavit
