/*
 * Accessors of bit-fields of ngx_http_request_t.
 *
 * Since nginx 1.29.3 the bit-fields begin at an odd multiple of two bytes,
 * after "in_port_t port". The accessors that bindgen generates then read other
 * bits than a C compiler does.
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
ngx_rust_request_header_only(const ngx_http_request_t *r)
{
    return r->header_only;
}


/* Makes the header the end of the response, without chunks. */
void
ngx_rust_request_end_with_header(ngx_http_request_t *r)
{
    r->header_only = 1;
    r->expect_trailers = 0;
}


/* Makes the response one that Range, If-Match and the like do not change. */
void
ngx_rust_request_set_unconditional(ngx_http_request_t *r)
{
    r->allow_ranges = 0;
    r->disable_not_modified = 1;
}


void
ngx_rust_request_set_header_only(ngx_http_request_t *r, ngx_uint_t value)
{
    r->header_only = value;
}


/* Whether an upstream with this configuration ends a request whose client left. */
ngx_uint_t
ngx_rust_upstream_watches_client(const ngx_http_upstream_conf_t *conf)
{
    return !conf->store && !conf->ignore_client_abort;
}
