/* format.c - numbers as people read them. */
#include "orchestrator/format.h"

#include <stdio.h>

lt_text lt_format_bytes(double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    lt_text out;
    size_t unit = 0;
    for (; bytes >= 1023.5 && unit + 1 < LT_COUNT(units); unit++) bytes /= 1024;
    snprintf(out.text, sizeof out.text, unit && bytes < 99.95 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return out;
}

lt_text lt_format_seconds(double seconds)
{
    lt_text out;
    long whole = seconds < 0 ? 0 : seconds > 1e9 ? 1000000000 : (long)(seconds + 0.5);
    if (whole >= 3600)
        snprintf(out.text, sizeof out.text, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
    else
        snprintf(out.text, sizeof out.text, "%ld:%02ld", whole / 60, whole % 60);
    return out;
}
