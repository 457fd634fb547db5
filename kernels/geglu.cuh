// The gated unit of a gate and an up, and its gradients. The formulas are at the head of geglu.cu.
#pragma once

#include "platform.cuh"

namespace ENGINE_NAMESPACE {

constexpr float GELU_C = 0.7978845608f; // sqrt(2 / pi)
constexpr float GELU_A = 0.044715f;

__device__ inline float gelu_tanh(float gate) { return tanhf(GELU_C * (gate + GELU_A * gate * gate * gate)); }

/// gelu(gate) * up
__device__ inline float gated(float gate, float up) { return 0.5f * gate * (1 + gelu_tanh(gate)) * up; }

/// Puts the gradients of a gate and an up in their places.
__device__ inline void gated_backward(float &gate, float &up, float dy) {
    float g = gate, t = gelu_tanh(g);
    float slope = 0.5f * (1 + t) + 0.5f * g * (1 - t * t) * GELU_C * (1 + 3 * GELU_A * g * g);
    gate = dy * up * slope;
    up = dy * 0.5f * g * (1 + t);
}

} // namespace ENGINE_NAMESPACE
