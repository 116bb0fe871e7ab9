/*
 * fuzz_dns_records: any octets as an answer of the DNS, for each type. What is taken from it is
 * printable text.
 */
#include <stdint.h>

#include "base/check.h"
#include "base/span.h"
#include "net/dns_records.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum dns_type types[] = { DNS_A,    DNS_CNAME, DNS_MX,  DNS_TXT,
                                           DNS_AAAA, DNS_SRV,   DNS_TLSA };
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct dns_records r = { 0 };
        const char *why = NULL;
        enum err e = dns_records_parse(data, size, types[i], &r, &why);
        CHECK((e == ERR_OK) == (r.n > 0) && why);
        for (size_t k = 0; k < r.n; k++) {
            for (const char *p = r.v[k]; *p; p++) {
                CHECK(*p >= ' ' && *p <= '~');
            }
        }
        dns_records_fini(&r);
    }
    return 0;
}
