// lavit::LessAttention for TensorRT: softmax(P S T^T + C) V, and if asked for the new scores too.
#pragma once

#include "kernel_library.hpp"

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>

namespace lavit
{

// Inputs  S [B, H, N, M], P [N, N] of S's type, T [M, M] float32, C [N, M] float32, V [B, H, M, d].
// Outputs [B, H, N, d] of V's type; with_scores: also P S T^T + C [B, H, N, M] of S's type.
// S and V are float16, bfloat16 or float32; S is of V's type or float32. B may vary at run time.
class LessAttentionPlugin final : public nvinfer1::IPluginV3,
                                  public nvinfer1::IPluginV3OneCore,
                                  public nvinfer1::IPluginV3OneBuild,
                                  public nvinfer1::IPluginV3OneRuntime
{
public:
    static constexpr char const* kNAME = "LessAttention";
    static constexpr char const* kVERSION = "1";
    static constexpr char const* kNAMESPACE = "lavit";
    static constexpr char const* kWITH_SCORES = "with_scores";

    LessAttentionPlugin(std::string layer, bool withScores);

    // IPluginV3
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    // IPluginV3OneCore
    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    char const* getPluginNamespace() const noexcept override;

    // IPluginV3OneBuild
    int32_t getNbOutputs() const noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs,
        nvinfer1::DataType const* inputTypes, int32_t nbInputs) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
        nvinfer1::DimsExprs const* shapeInputs, int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs,
        int32_t nbOutputs, nvinfer1::IExprBuilder& exprBuilder) noexcept override;
    bool supportsFormatCombination(int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut, int32_t nbInputs,
        int32_t nbOutputs) noexcept override;
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t nbOutputs) noexcept override;

    // IPluginV3OneRuntime
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::PluginTensorDesc const* out, int32_t nbOutputs) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
        void const* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

private:
    bool countsFit(int32_t nbInputs, int32_t nbOutputs) const noexcept;

    std::string mLayer;
    int32_t mWithScores;
    Problem mProblem{};
    nvinfer1::PluginField mField;
    nvinfer1::PluginFieldCollection mFields{};
};

class LessAttentionCreator final : public nvinfer1::IPluginCreatorV3One
{
public:
    LessAttentionCreator();

    nvinfer1::IPluginV3* createPlugin(
        char const* name, nvinfer1::PluginFieldCollection const* fc, nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    char const* getPluginNamespace() const noexcept override;

private:
    nvinfer1::PluginField mField;
    nvinfer1::PluginFieldCollection mFields{};
};

} // namespace lavit
