//! Other nginx modules that handle the same request, and every kind of client beside them.

mod accel;
mod accept;
mod dav;
mod early;
mod filter_order;
mod grpc_pages;
mod http3;
mod image_filter;
mod includes;
mod leaving_clients;
mod limits;
mod lua;
mod reason;
mod service_worker;
mod slices;

use std::env;
use std::sync::Once;

use support::Builder;

use crate::site::report_skipped;

/// The `/usr` with the modules of this nginx: the system's, or that of `AUTHGEAR_NGINX_ROOT` for
/// another nginx. `None` for another nginx without modules.
fn usr() -> Option<String> {
    match env::var("AUTHGEAR_NGINX_ROOT") {
        Ok(root) => Some(format!("{root}/usr")),
        Err(_) => env::var_os("AUTHGEAR_NGINX").is_none().then(|| "/usr".into()),
    }
}

/// Whether there are modules for this nginx. If not, prints that these tests are skipped.
fn has_debian_modules() -> bool {
    static REPORTED: Once = Once::new();
    let has = usr().is_some();
    if !has {
        report_skipped(&REPORTED, "Debian's modules, which are not for this nginx");
    }
    has
}

/// nginx with these modules of Debian, loaded after the module and before it.
fn in_both_orders(modules: &[&str], builder: impl Fn() -> Builder) -> [(&'static str, Builder); 2] {
    let usr = usr().unwrap_or_default();
    let load = |name: &&str| format!("load_module {usr}/lib/nginx/modules/{name}.so;\n");
    let others: String = modules.iter().map(load).collect();
    let builder = || builder().var("USR", &usr);
    let after = builder().main(&others);
    let before = builder().without_module().main(format!("{others} load_module %%MODULE%%;"));
    [("loaded last", after), ("loaded first", before)]
}

const LUA: [&str; 2] = ["ndk_http_module", "ngx_http_lua_module"];
const LUA_PATH: &str = "lua_package_path '%%USR%%/share/lua/5.1/?.lua;;';";

/// nginx with Lua, loaded after the module and before it. By default Lua decides on access after
/// all other modules; with `access_by_lua_no_postpone`, in its place in the order.
fn with_lua(builder: impl Fn() -> Builder) -> [(&'static str, Builder); 4] {
    let lua = || in_both_orders(&LUA, || builder().http(LUA_PATH));
    let [(_, after), (_, before)] = lua();
    let [(_, after_first), (_, before_first)] = lua();
    let first = |builder: Builder| builder.http("access_by_lua_no_postpone on;");
    [
        ("Lua loaded last", after),
        ("Lua loaded first", before),
        ("Lua loaded last, deciding first", first(after_first)),
        ("Lua loaded first, deciding first", first(before_first)),
    ]
}
