/*
 * Bit-fields of ngx_http_request_t, by the compiler that lays them out.
 *
 * Since nginx 1.29.3 they begin at an odd multiple of two bytes, behind
 * "in_port_t port", and bindgen gives some of them other places than C does.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


ngx_uint_t
ngx_rust_request_internal(const ngx_http_request_t *r)
{
    return r->internal;
}


ngx_uint_t
ngx_rust_request_filter_finalize(const ngx_http_request_t *r)
{
    return r->filter_finalize;
}


ngx_uint_t
ngx_rust_request_chunked(const ngx_http_request_t *r)
{
    return r->chunked;
}


void
ngx_rust_request_set_header_only(ngx_http_request_t *r, ngx_uint_t value)
{
    r->header_only = value;
}
