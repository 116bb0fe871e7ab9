/* blob_id: text and back, order, and what is no id. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include "base/blob_id.h"
#include "base/check.h"

static const uint8_t zeros[10];
static const uint8_t ones[10] = { 255, 255, 255, 255, 255, 255, 255, 255, 255, 255 };

static void known_texts(void **state)
{
    (void)state;
    char text[BLOB_ID_CHARS + 1];
    struct blob_id id = blob_id_make(0, zeros);
    blob_id_text(&id, text);
    assert_string_equal(text, "00000000000000000000000000");
    id = blob_id_make((UINT64_C(1) << 48) - 1, ones);
    blob_id_text(&id, text);
    assert_string_equal(text, "7zzzzzzzzzzzzzzzzzzzzzzzzz");
    /* The example of the ULID specification, which shares layout and alphabet. */
    static const uint8_t random[] = { 0xd6, 0x76, 0x4c, 0x61, 0xef, 0xb9, 0x93, 0x02, 0xbd, 0x5b };
    id = blob_id_make(0x01563e3ab5d3, random);
    blob_id_text(&id, text);
    assert_string_equal(text, "01arz3ndektsv4rrffq69g5fav");
    assert_true(blob_id_time(&id) == UINT64_C(0x01563e3ab5d3));
}

static void there_and_back_in_order(void **state)
{
    (void)state;
    char before[BLOB_ID_CHARS + 1] = "", text[BLOB_ID_CHARS + 1];
    for (uint64_t i = 0; i < 2000; i++) {
        uint8_t random[10];
        for (size_t k = 0; k < sizeof random; k++) {
            random[k] = (uint8_t)((i + 1) * 2654435761U >> (k * 2));
        }
        uint64_t ms = i * i * 64000000 + i; /* up to 2^48 */
        struct blob_id id = blob_id_make(ms, random), again;
        blob_id_text(&id, text);
        assert_int_equal(strlen(text), BLOB_ID_CHARS);
        assert_int_equal(blob_id_parse(span_str(text), &again), ERR_OK);
        assert_true(blob_id_eq(&id, &again));
        assert_true(blob_id_time(&again) == ms);
        assert_true(strcmp(before, text) < 0);
        memcpy(before, text, sizeof text);
    }
}

/* No two texts are one id: a UIDL or a file name has exactly one spelling. */
static void refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "0000000000000000000000000",
        "000000000000000000000000000",
        "80000000000000000000000000",
        "z0000000000000000000000000",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "0000000000000000000000000i",
        "0000000000000000000000000l",
        "0000000000000000000000000o",
        "0000000000000000000000000u",
        "000000000000/0000000000000",
        "0000000000000000000000000\xff",
    };
    struct blob_id id = blob_id_make(42, ones), kept = id;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(blob_id_parse(span_str(bad[i]), &id), ERR_INVALID);
        assert_true(blob_id_eq(&id, &kept));
    }
    assert_int_equal(blob_id_parse(span_of("0000000000000\0000000000000", 26), &id), ERR_INVALID);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_texts),
        cmocka_unit_test(there_and_back_in_order),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
