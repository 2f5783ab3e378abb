# Rules of nginx's Makefile for the module; see config. Cargo knows whether anything changed.

ngx_authgear_so=$NGX_OBJS/ngx_http_authgear_module.so
case $NGX_OBJS in /*) ngx_authgear_objs=$NGX_OBJS ;; *) ngx_authgear_objs=$PWD/$NGX_OBJS ;; esac
case $ngx_addon_dir in /*) ngx_authgear_dir=$ngx_addon_dir ;; *) ngx_authgear_dir=$PWD/$ngx_addon_dir ;; esac
case $NGX_MODULES_PATH in /*) ngx_authgear_to=$NGX_MODULES_PATH ;; *) ngx_authgear_to=$NGX_PREFIX/$NGX_MODULES_PATH ;; esac

cat << END >> $NGX_MAKEFILE

modules:	$ngx_authgear_so

.PHONY:	$ngx_authgear_so install_authgear

$ngx_authgear_so:
	cd $ngx_authgear_dir && NGINX_SOURCE_DIR=$PWD NGINX_BUILD_DIR=$ngx_authgear_objs \\
		\$\${CARGO:-cargo} build --release --locked --target-dir $ngx_authgear_objs/authgear
	cp $ngx_authgear_objs/authgear/release/libngx_http_authgear_module.so $ngx_authgear_so
	$ngx_authgear_dir/packaging/split-debug.sh $ngx_authgear_so

install:	install_authgear

install_authgear:	$ngx_authgear_so
	mkdir -p '\$(DESTDIR)$ngx_authgear_to'
	cp $ngx_authgear_so '\$(DESTDIR)$ngx_authgear_to/ngx_http_authgear_module.so.new'
	mv '\$(DESTDIR)$ngx_authgear_to/ngx_http_authgear_module.so.new' \\
		'\$(DESTDIR)$ngx_authgear_to/ngx_http_authgear_module.so'

END
