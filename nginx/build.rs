//! Sets cfg values for the nginx to build against, from the metadata of `nginx-sys`.

fn main() {
    for (variable, cfg) in [("DEP_NGINX_FEATURES", "ngx_feature"), ("DEP_NGINX_OS", "ngx_os")] {
        println!("cargo::rerun-if-env-changed={variable}");
        println!("cargo::rerun-if-env-changed={variable}_CHECK");
        let known = std::env::var(format!("{variable}_CHECK")).unwrap_or("any()".into());
        println!("cargo::rustc-check-cfg=cfg({cfg}, values({known}))");
        for value in std::env::var(variable).iter().flat_map(|values| values.split(',')) {
            println!("cargo::rustc-cfg={cfg}=\"{}\"", value.trim());
        }
    }

    // Since 1.23.0, headers of one name are linked. Before, `cookies` was an array of pointers.
    println!("cargo::rustc-check-cfg=cfg(nginx1_23_0)");
    println!("cargo::rerun-if-env-changed=DEP_NGINX_VERSION_NUMBER");
    let version = std::env::var("DEP_NGINX_VERSION_NUMBER").ok().and_then(|v| v.parse().ok());
    if version.unwrap_or(0) >= 1_023_000_u64 {
        println!("cargo::rustc-cfg=nginx1_23_0");
    }

    // The file itself says why it is C. nginx-sys passes the include path (DEP_NGINX_INCLUDE).
    println!("cargo::rerun-if-changed=src/request_bits.c");
    println!("cargo::rerun-if-env-changed=DEP_NGINX_INCLUDE");
    let include = std::env::var_os("DEP_NGINX_INCLUDE").unwrap_or_default();
    cc::Build::new()
        .file("src/request_bits.c")
        .includes(std::env::split_paths(&include))
        .compile("request_bits");
}
