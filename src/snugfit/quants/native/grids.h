// Tables of the I types, which Python hands over before it uses one; zeros until then.
#pragma once

#include <cstdint>

namespace snugfit {

struct Grids {
    std::int8_t iq2_xxs[256 * 8];
    std::int8_t iq2_xs[512 * 8];
    std::int8_t iq2_s[1024 * 8];
    std::int8_t iq3_xxs[256 * 4];
    std::int8_t iq3_s[512 * 4];
    std::int8_t iq1[2048 * 8];
    std::int8_t iq4[16];
};

extern Grids grids;

}  // namespace snugfit
