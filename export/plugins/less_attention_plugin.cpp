#include "less_attention_plugin.hpp"

#include "logging.hpp"

#include <exception>
#include <new>
#include <string_view>
#include <utility>

namespace lavit
{
namespace
{

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr int32_t kINPUTS = 5;
constexpr int32_t kSCORES = 0;
constexpr int32_t kQUERIES = 1;
constexpr int32_t kKEYS = 2;
constexpr int32_t kCONSTANT = 3;
constexpr int32_t kVALUES = 4;
constexpr int32_t kOUT = 5;
constexpr int32_t kNEW_SCORES = 6;

constexpr int32_t kOK = 0;
constexpr int32_t kFAILED = 1;

std::string written(Dims const& dims)
{
    std::string text = "[";
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        text += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
    }
    return text + "]";
}

bool is(Dims const& dims, std::initializer_list<int64_t> wanted)
{
    if (dims.nbDims != static_cast<int32_t>(wanted.size()))
    {
        return false;
    }
    int32_t i = 0;
    for (auto const size : wanted)
    {
        if (dims.d[i++] != size)
        {
            return false;
        }
    }
    return true;
}

// What the shapes of the inputs say; an explanation instead if they contradict each other. A size
// that is not known yet is -1 everywhere, so the same check serves while an engine is built.
std::string describe(Dims const& s, Dims const& p, Dims const& t, Dims const& c, Dims const& v, Problem& problem)
{
    if (s.nbDims != 4 || v.nbDims != 4)
    {
        return "scores are " + written(s) + " and values " + written(v) + ", expected four dimensions of each";
    }
    auto const n = s.d[2];
    auto const m = s.d[3];
    if (!is(p, {n, n}) || !is(t, {m, m}) || !is(c, {n, m}) || !is(v, {s.d[0], s.d[1], m, v.d[3]}))
    {
        return "scores are " + written(s) + ", which P " + written(p) + ", T " + written(t) + ", C " + written(c)
            + " and values " + written(v) + " do not fit: expected [N, N], [M, M], [N, M] and [B, H, M, d]";
    }
    if (n < 1 || m < 1 || s.d[1] < 1 || v.d[3] < 1)
    {
        return "scores are " + written(s) + " and values " + written(v)
            + ": only the batch may vary at run time, and nothing else may be empty";
    }
    problem.batch = static_cast<int32_t>(s.d[0]);
    problem.heads = static_cast<int32_t>(s.d[1]);
    problem.tokens = static_cast<int32_t>(n);
    problem.keys = static_cast<int32_t>(m);
    problem.channels = static_cast<int32_t>(v.d[3]);
    return {};
}

} // namespace

LessAttentionPlugin::LessAttentionPlugin(std::string layer, bool withScores)
    : mLayer{std::move(layer)}
    , mWithScores{withScores ? 1 : 0}
{
}

nvinfer1::IPluginCapability* LessAttentionPlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* LessAttentionPlugin::clone() noexcept
{
    try
    {
        // Not a copy: mFields points into its own object.
        auto* const made = new LessAttentionPlugin{mLayer, mWithScores != 0};
        made->mProblem = mProblem;
        return made;
    }
    catch (std::exception const& error)
    {
        logError(mLayer, error.what());
        return nullptr;
    }
}

char const* LessAttentionPlugin::getPluginName() const noexcept
{
    return kNAME;
}

char const* LessAttentionPlugin::getPluginVersion() const noexcept
{
    return kVERSION;
}

char const* LessAttentionPlugin::getPluginNamespace() const noexcept
{
    return kNAMESPACE;
}

bool LessAttentionPlugin::countsFit(int32_t nbInputs, int32_t nbOutputs) const noexcept
{
    return nbInputs == kINPUTS && nbOutputs == getNbOutputs();
}

int32_t LessAttentionPlugin::getNbOutputs() const noexcept
{
    return 1 + mWithScores;
}

int32_t LessAttentionPlugin::getOutputDataTypes(
    DataType* outputTypes, int32_t nbOutputs, DataType const* inputTypes, int32_t nbInputs) const noexcept
{
    if (!countsFit(nbInputs, nbOutputs))
    {
        return kFAILED;
    }
    outputTypes[0] = inputTypes[kVALUES];
    if (mWithScores != 0)
    {
        outputTypes[1] = inputTypes[kSCORES];
    }
    return kOK;
}

int32_t LessAttentionPlugin::getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
    nvinfer1::DimsExprs const* /* shapeInputs */, int32_t /* nbShapeInputs */, nvinfer1::DimsExprs* outputs,
    int32_t nbOutputs, nvinfer1::IExprBuilder& /* exprBuilder */) noexcept
{
    if (!countsFit(nbInputs, nbOutputs) || inputs[kSCORES].nbDims != 4 || inputs[kVALUES].nbDims != 4)
    {
        logError(mLayer, "expected five inputs, scores and values of four dimensions");
        return kFAILED;
    }
    outputs[0] = inputs[kSCORES];
    outputs[0].d[3] = inputs[kVALUES].d[3]; // [B, H, N, d]
    if (mWithScores != 0)
    {
        outputs[1] = inputs[kSCORES];
    }
    return kOK;
}

bool LessAttentionPlugin::supportsFormatCombination(
    int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept
{
    if (!countsFit(nbInputs, nbOutputs) || inOut[pos].desc.format != nvinfer1::TensorFormat::kLINEAR)
    {
        return false;
    }
    // What follows `pos` is not decided yet.
    auto const type = inOut[pos].desc.type;
    switch (pos)
    {
    case kSCORES: return type == DataType::kHALF || type == DataType::kBF16 || type == DataType::kFLOAT;
    case kQUERIES:
    case kNEW_SCORES: return type == inOut[kSCORES].desc.type;
    case kKEYS:
    case kCONSTANT: return type == DataType::kFLOAT;
    case kVALUES: return typesSupported(inOut[kSCORES].desc.type, type);
    case kOUT: return type == inOut[kVALUES].desc.type;
    default: return false;
    }
}

int32_t LessAttentionPlugin::configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs,
    nvinfer1::DynamicPluginTensorDesc const* /* out */, int32_t nbOutputs) noexcept
{
    try
    {
        if (!countsFit(nbInputs, nbOutputs))
        {
            logError(mLayer, "expected five inputs");
            return kFAILED;
        }
        Problem ignored{};
        auto const fault = describe(in[kSCORES].desc.dims, in[kQUERIES].desc.dims, in[kKEYS].desc.dims,
            in[kCONSTANT].desc.dims, in[kVALUES].desc.dims, ignored);
        if (!fault.empty())
        {
            logError(mLayer, fault);
            return kFAILED;
        }
        return kOK;
    }
    catch (std::exception const& error)
    {
        logError(mLayer, error.what());
        return kFAILED;
    }
}

int32_t LessAttentionPlugin::onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs,
    nvinfer1::PluginTensorDesc const* /* out */, int32_t nbOutputs) noexcept
{
    try
    {
        if (!countsFit(nbInputs, nbOutputs))
        {
            logError(mLayer, "expected five inputs");
            return kFAILED;
        }
        auto const fault = describe(in[kSCORES].dims, in[kQUERIES].dims, in[kKEYS].dims, in[kCONSTANT].dims,
            in[kVALUES].dims, mProblem);
        if (!fault.empty())
        {
            logError(mLayer, fault);
            return kFAILED;
        }
        mProblem.scores = in[kSCORES].type;
        mProblem.values = in[kVALUES].type;
        return kOK;
    }
    catch (std::exception const& error)
    {
        logError(mLayer, error.what());
        return kFAILED;
    }
}

int32_t LessAttentionPlugin::enqueue(nvinfer1::PluginTensorDesc const* inputDesc,
    nvinfer1::PluginTensorDesc const* /* outputDesc */, void const* const* inputs, void* const* outputs,
    void* /* workspace */, cudaStream_t stream) noexcept
{
    try
    {
        auto problem = mProblem;
        problem.batch = static_cast<int32_t>(inputDesc[kSCORES].dims.d[0]);
        Operands const operands{inputs[kSCORES], inputs[kQUERIES], inputs[kKEYS], inputs[kCONSTANT], inputs[kVALUES],
            outputs[0], mWithScores != 0 ? outputs[1] : nullptr};
        auto const fault = launch(problem, operands, stream);
        if (!fault.empty())
        {
            logError(mLayer, fault);
            return kFAILED;
        }
        return kOK;
    }
    catch (std::exception const& error)
    {
        logError(mLayer, error.what());
        return kFAILED;
    }
}

nvinfer1::IPluginV3* LessAttentionPlugin::attachToContext(nvinfer1::IPluginResourceContext* /* context */) noexcept
{
    return clone(); // a context has its own shapes, and nothing else
}

nvinfer1::PluginFieldCollection const* LessAttentionPlugin::getFieldsToSerialize() noexcept
{
    mField = PluginField{kWITH_SCORES, &mWithScores, PluginFieldType::kINT32, 1};
    mFields = {1, &mField};
    return &mFields;
}

LessAttentionCreator::LessAttentionCreator()
    : mField{LessAttentionPlugin::kWITH_SCORES, nullptr, PluginFieldType::kINT32, 1}
    , mFields{1, &mField}
{
}

nvinfer1::IPluginV3* LessAttentionCreator::createPlugin(
    char const* name, nvinfer1::PluginFieldCollection const* fc, nvinfer1::TensorRTPhase /* phase */) noexcept
{
    try
    {
        std::string const layer = name == nullptr ? "" : name;
        int32_t withScores = 0;
        for (int32_t i = 0; fc != nullptr && i < fc->nbFields; ++i)
        {
            auto const& field = fc->fields[i];
            if (std::string_view{field.name} != LessAttentionPlugin::kWITH_SCORES)
            {
                continue; // the parser also passes plugin_version and plugin_namespace
            }
            if (field.type != PluginFieldType::kINT32 || field.data == nullptr || field.length != 1)
            {
                logError(layer, "with_scores must be one 32-bit integer");
                return nullptr;
            }
            withScores = *static_cast<int32_t const*>(field.data);
        }
        if (withScores != 0 && withScores != 1)
        {
            logError(layer, "with_scores is " + std::to_string(withScores) + ", expected 0 or 1");
            return nullptr;
        }
        return new LessAttentionPlugin{layer, withScores == 1};
    }
    catch (std::exception const& error)
    {
        logError("", error.what());
        return nullptr;
    }
}

nvinfer1::PluginFieldCollection const* LessAttentionCreator::getFieldNames() noexcept
{
    return &mFields;
}

char const* LessAttentionCreator::getPluginName() const noexcept
{
    return LessAttentionPlugin::kNAME;
}

char const* LessAttentionCreator::getPluginVersion() const noexcept
{
    return LessAttentionPlugin::kVERSION;
}

char const* LessAttentionCreator::getPluginNamespace() const noexcept
{
    return LessAttentionPlugin::kNAMESPACE;
}

} // namespace lavit
