/* tokenizer_spiece.c - reads a SentencePiece model (a protobuf message, ModelProto): pieces with scores and types, the kind of
 * model, and the normaliser's table. The fields that are wanted are few, so the wire format is read in place. */
#include "models/tokenizer_spiece.h"

#include <string.h>

/* Field numbers of sentencepiece_model.proto. */
enum {
    MODEL_PIECES = 1,
    MODEL_TRAINER = 2,
    MODEL_NORMALIZER = 3,
    PIECE_TEXT = 1,
    PIECE_SCORE = 2,
    PIECE_TYPE = 3,
    TRAINER_MODEL_TYPE = 3,
    NORMALIZER_CHARSMAP = 2,
};

typedef struct wire {
    const unsigned char *at, *end;
} wire;

/* One field: `bytes` for length-delimited ones, else `value`. */
typedef struct wire_field {
    uint32_t number, type;
    uint64_t value;
    wire bytes;
} wire_field;

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

static bool read_varint(wire *w, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (w->at == w->end) return false;
        unsigned char b = *w->at++;
        *value |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80)) return true;
    }
    return false;
}

static bool read_fixed(wire *w, size_t n, uint64_t *value)
{
    if ((size_t)(w->end - w->at) < n) return false;
    *value = 0;
    for (size_t i = 0; i < n; i++) *value |= (uint64_t)w->at[i] << (8 * i);
    w->at += n;
    return true;
}

/* False where the message is broken. */
static bool read_field(wire *w, wire_field *field)
{
    uint64_t key;
    if (!read_varint(w, &key) || key >> 3 == 0 || key >> 32) return false;
    field->number = (uint32_t)(key >> 3);
    field->type = key & 7;
    switch (field->type) {
    case VARINT: return read_varint(w, &field->value);
    case FIXED64: return read_fixed(w, 8, &field->value);
    case FIXED32: return read_fixed(w, 4, &field->value);
    case BYTES:
        if (!read_varint(w, &field->value) || field->value > (uint64_t)(w->end - w->at)) return false;
        field->bytes = (wire){w->at, w->at + field->value};
        w->at += field->value;
        return true;
    }
    return false;
}

static bool read_piece(wire w, spiece *piece)
{
    wire_field f;
    *piece = (spiece){.text = "", .type = SPIECE_NORMAL};
    while (w.at < w.end) {
        if (!read_field(&w, &f)) return false;
        if (f.number == PIECE_TEXT && f.type == BYTES) {
            piece->text = (const char *)f.bytes.at;
            piece->n = (size_t)(f.bytes.end - f.bytes.at);
        } else if (f.number == PIECE_SCORE && f.type == FIXED32) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&piece->score, &bits, sizeof bits);
        } else if (f.number == PIECE_TYPE && f.type == VARINT) {
            piece->type = (int)(f.value & 0xFF);
        }
    }
    return true;
}

/* A field of a message within the model; later ones count, as in protobuf. */
static bool read_inner(wire w, uint32_t number, uint32_t type, wire_field *found)
{
    wire_field f;
    while (w.at < w.end) {
        if (!read_field(&w, &f)) return false;
        if (f.number == number && f.type == type) *found = f;
    }
    return true;
}

lt_status spiece_read(spiece_model *model, const char *text, size_t n, spiece *pieces, const char *path,
                      lt_err *err)
{
    wire w = {(const unsigned char *)text, (const unsigned char *)text + n};
    wire_field f, kind = {.value = SPIECE_UNIGRAM}, map = {0};
    *model = (spiece_model){0};
    while (w.at < w.end) {
        const unsigned char *start = w.at;
        spiece piece;
        bool good = read_field(&w, &f);
        if (good && f.type == BYTES && f.number == MODEL_PIECES) {
            good = read_piece(f.bytes, &piece);
            if (good && pieces) pieces[model->n_pieces] = piece;
            model->n_pieces++;
        } else if (good && f.type == BYTES && f.number == MODEL_TRAINER) {
            good = read_inner(f.bytes, TRAINER_MODEL_TYPE, VARINT, &kind);
        } else if (good && f.type == BYTES && f.number == MODEL_NORMALIZER) {
            good = read_inner(f.bytes, NORMALIZER_CHARSMAP, BYTES, &map);
        }
        if (!good)
            return lt_fail(err, LT_E_FORMAT,
                           "%s is not a SentencePiece model, or is cut short: its message breaks at byte %td",
                           path, start - (const unsigned char *)text);
    }
    model->kind = (int)(kind.value & 0xFF);
    model->charsmap = (const char *)map.bytes.at;
    model->charsmap_n = map.bytes.at ? (size_t)(map.bytes.end - map.bytes.at) : 0;
    return LT_OK;
}
