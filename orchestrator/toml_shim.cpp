// toml_shim.cpp - toml++ behind a C interface. The only C++ of the orchestrator.
#include <toml++/toml.h>

extern "C" {
#include "core/core.h"
}
#include "orchestrator/toml_shim.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <sstream>
#include <string>

namespace
{

lt_where position(const toml::source_region &source)
{
    return {static_cast<int>(source.begin.line), static_cast<int>(source.begin.column), nullptr};
}

const char *keep(lt_arena *arena, const std::string &text)
{
    const char *copy = lt_arena_strdup(arena, text.c_str());
    if (!copy) throw std::bad_alloc();
    return copy;
}

/* Numbers are written so that reading them again gives the same value. */
std::string float_text(double value)
{
    char text[64];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, nullptr) == value) break;
    }
    return text;
}

void convert(const toml::node &node, lt_toml *out, lt_arena *arena);

lt_toml *new_items(size_t n, lt_arena *arena)
{
    auto *items = static_cast<lt_toml *>(lt_arena_alloc(arena, (n ? n : 1) * sizeof(lt_toml)));
    if (!items) throw std::bad_alloc();
    return items;
}

void convert_table(const toml::table &table, lt_toml *out, lt_arena *arena)
{
    out->type = LT_TOML_TABLE;
    out->items = new_items(table.size(), arena);
    for (auto &&[key, value] : table) {
        lt_toml *item = &out->items[out->n_items++];
        item->key = keep(arena, std::string(key.str()));
        item->key_where = position(key.source());
        convert(value, item, arena);
    }
    /* toml++ sorts by name; people think in the order of the file. */
    std::stable_sort(out->items, out->items + out->n_items, [](const lt_toml &a, const lt_toml &b) {
        return a.key_where.line != b.key_where.line ? a.key_where.line < b.key_where.line
                                                    : a.key_where.column < b.key_where.column;
    });
}

void convert_array(const toml::array &array, lt_toml *out, lt_arena *arena)
{
    out->type = LT_TOML_ARRAY;
    out->items = new_items(array.size(), arena);
    for (auto &&value : array) {
        lt_toml *item = &out->items[out->n_items++];
        item->key = "";
        convert(value, item, arena);
        item->key_where = item->where;
    }
}

void convert(const toml::node &node, lt_toml *out, lt_arena *arena)
{
    out->where = position(node.source());
    if (auto *table = node.as_table()) {
        convert_table(*table, out, arena);
    } else if (auto *array = node.as_array()) {
        convert_array(*array, out, arena);
    } else if (auto *string = node.as_string()) {
        out->type = LT_TOML_STRING;
        out->text = keep(arena, string->get());
    } else if (auto *integer = node.as_integer()) {
        out->type = LT_TOML_INTEGER;
        out->text = keep(arena, std::to_string(integer->get()));
    } else if (auto *number = node.as_floating_point()) {
        out->type = LT_TOML_FLOAT;
        out->text = keep(arena, float_text(number->get()));
    } else if (auto *boolean = node.as_boolean()) {
        out->type = LT_TOML_BOOLEAN;
        out->text = boolean->get() ? "true" : "false";
    } else {
        std::ostringstream text;
        if (auto *date = node.as_date()) text << date->get();
        if (auto *time = node.as_time()) text << time->get();
        if (auto *both = node.as_date_time()) text << both->get();
        out->type = LT_TOML_TIME;
        out->text = keep(arena, text.str());
    }
}

/* Behind the string that begins at `at`; of one that does not end, where TOML gives up. */
size_t behind_string(std::string_view text, size_t at)
{
    char quote = text[at];
    bool is_long = text.substr(at, 3) == std::string(3, quote);
    for (at += is_long ? 3 : 1; at < text.size(); at++) {
        if (quote == '"' && text[at] == '\\') {
            at++;
        } else if (!is_long && (text[at] == quote || text[at] == '\n')) {
            return at + (text[at] == quote);
        } else if (is_long && text.substr(at, 3) == std::string(3, quote)) {
            /* Up to two quotes may stand before those that end it. */
            for (at += 3; at < text.size() && text[at] == quote;) at++;
            return at;
        }
    }
    return text.size();
}

/* A key of very many parts is a table in a table in a table, and toml++ and what is here go down into them by recursion. False, and where,
 * when there is one. Values in values are limited by toml++ itself, to 256. */
bool keys_are_short(std::string_view text, lt_where *where)
{
    const int max_parts = 8; /* [stage.NAME], OPTION.KEY */
    int dots = 0;
    for (size_t at = 0; at < text.size();) {
        char c = text[at];
        if (c == '"' || c == '\'') {
            at = behind_string(text, at);
            continue;
        }
        if (c == '#') {
            at = std::min(text.find('\n', at), text.size());
            continue;
        }
        if (strchr("=,[]{}\n", c)) dots = 0;
        if (c == '.' && ++dots >= max_parts) {
            std::string_view before = text.substr(0, at);
            size_t line = before.rfind('\n');
            *where = {static_cast<int>(std::count(before.begin(), before.end(), '\n')) + 1,
                      static_cast<int>(line == before.npos ? at : at - line - 1) + 1, nullptr};
            return false;
        }
        at++;
    }
    return true;
}

} // namespace

extern "C" lt_status lt_toml_parse(const char *text, size_t bytes, lt_arena *arena, lt_toml **root,
                                   lt_where *where, lt_err *err)
{
    try {
        if (!keys_are_short(std::string_view(text, bytes), where))
            return lt_fail(err, LT_E_FORMAT, "a key of more than 8 parts");
        toml::table table = toml::parse(std::string_view(text, bytes));
        *root = new_items(1, arena);
        (*root)->key = "";
        convert(table, *root, arena);
        return LT_OK;
    } catch (const toml::parse_error &error) {
        *where = position(error.source());
        return lt_fail(err, LT_E_FORMAT, "%.*s", static_cast<int>(error.description().size()),
                       error.description().data());
    } catch (const std::bad_alloc &) {
        return lt_fail(err, LT_E_NO_MEMORY, "no memory for the graph");
    } catch (const std::exception &error) {
        return lt_fail(err, LT_E_INTERNAL, "reading TOML: %s", error.what());
    }
}

extern "C" const char *lt_toml_type_name(lt_toml_type type)
{
    static const char *const names[] = {"a string", "an integer", "a number", "a boolean",
                                        "a time",   "an array",   "a table"};
    return names[type];
}

extern "C" lt_toml *lt_toml_find(const lt_toml *table, const char *key)
{
    if (!table || table->type != LT_TOML_TABLE) return nullptr;
    for (int i = 0; i < table->n_items; i++)
        if (!strcmp(table->items[i].key, key)) return &table->items[i];
    return nullptr;
}
