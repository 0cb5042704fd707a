#include "tests/kernels/kernelcheck.h"
int bench(int threads, const char *filter)
{
    return 0;
}
