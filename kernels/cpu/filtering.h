// Minimal filtering for one instruction set; included once for each, with LANES, ROWS and VECTORS
// defined.
namespace filtering {
using winograd::Kernels;
using winograd::Plan;
#include "winograd_tiles.h"
}  // namespace filtering
