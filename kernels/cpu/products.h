// Everything by bfloat16 products, and what goes with them, for one instruction set; included once
// for each.
namespace products {
#include "bf16x3_tiles.h"
#include "bf16x3_convolution.h"
#include "bf16x3_matmul.h"
#include "bf16x3_attention.h"
#include "group_norm.h"
}  // namespace products
