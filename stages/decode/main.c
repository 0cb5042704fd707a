/* main.c - the program stage-decode. */
#include "stages/decode/decode.h"

int main(int argc, char **argv)
{
    return lt_stage_main(&lt_decode_stage, argc, argv);
}
