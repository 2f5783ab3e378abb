//! The module's file and the nginx that is to load it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::elf::{FileHeader64, R_AARCH64_ABS64, R_X86_64_64};
use object::read::elf::ElfFile;
use object::{Endianness, Object as _, ObjectSegment as _, ObjectSymbol as _};
use object::{ObjectSymbolTable as _, RelocationFlags, RelocationTarget};

use crate::finding::{Problem, Report};
use crate::site::Site;
use crate::syntax::Directive;

/// Name of the module's file.
const FILE: &str = "ngx_http_authgear_module.so";

/// An nginx binary, and what it says of itself.
#[derive(Debug, Default)]
pub struct Nginx {
    /// Path of the binary.
    pub binary: PathBuf,
    /// `nginx_version`: 1022001 for 1.22.1. Absent for a product with other numbers.
    version: Option<u64>,
    /// `--prefix`.
    prefix: PathBuf,
    /// `--conf-path`.
    pub conf: PathBuf,
}

impl Nginx {
    /// Asks a binary with `-V`.
    ///
    /// # Errors
    ///
    /// The binary cannot be run.
    pub fn ask(binary: &Path) -> Result<Self, String> {
        let run = Command::new(binary).arg("-V").output();
        let output =
            run.map_err(|error| format!("cannot run \"{}\": {error}", binary.display()))?;
        // nginx writes it to stderr.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let option = |name: &str| {
            let rest = said.split_once(&format!("{name}="))?.1;
            rest.split_whitespace().next().map(|value| value.trim_matches('\'').to_owned())
        };
        let prefix = PathBuf::from(option("--prefix").unwrap_or_else(|| "/usr/local/nginx".into()));
        let conf = option("--conf-path").unwrap_or_else(|| "conf/nginx.conf".into());
        let version = said.lines().find_map(|line| line.strip_prefix("nginx version: "));
        Ok(Self {
            binary: binary.to_owned(),
            version: version.and_then(number),
            conf: prefix.join(conf),
            prefix,
        })
    }

    /// The nginx in `PATH`, or where systems install it.
    pub fn find() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = ["/usr/sbin", "/usr/local/sbin", "/usr/local/nginx/sbin"];
        let folders = std::env::split_paths(&path).chain(installed.map(PathBuf::from));
        folders.map(|folder| folder.join("nginx")).find(|file| file.is_file())
    }
}

/// `nginx/1.22.1` as nginx counts: 1022001.
fn number(version: &str) -> Option<u64> {
    let (product, version) = version.split_once('/')?;
    if !matches!(product, "nginx" | "openresty") {
        return None;
    }
    let version = version.split_whitespace().next()?;
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    Some(parts.next()?? * 1_000_000 + parts.next()?? * 1000 + parts.next()??)
}

/// The nginx that a module says it was built for.
#[derive(Debug, PartialEq, Eq)]
struct BuiltFor {
    version: u64,
    signature: String,
}

/// Checks that the module is loaded, and that this nginx takes it.
pub fn check(site: &Site<'_>, nginx: Option<&Nginx>, report: &mut Report) {
    let is_module = |line: &&Directive| line.name == "load_module" && line.first().ends_with(FILE);
    let Some(line) = site.main.iter().find(is_module) else {
        let of_module =
            |line: &&Directive| line.name == "load_module" && line.first().contains("authgear");
        if site.main.iter().find(of_module).is_none() {
            check_static(nginx, report);
        }
        return;
    };
    let Some(nginx) = nginx else { return };
    let file = nginx.prefix.join(line.first());
    let unreadable = |error: &dyn std::fmt::Display| {
        format!("cannot read the module \"{}\": {error}", file.display())
    };
    let content = match fs::read(&file) {
        Ok(content) => content,
        Err(error) => {
            report.add(Problem::ModuleUnreadable, Some(&line.place), unreadable(&error));
            return;
        }
    };
    let Some(built_for) = built_for(&content) else {
        let what = unreadable(&"it is no nginx module");
        report.add(Problem::ModuleUnreadable, Some(&line.place), what);
        return;
    };
    if let Some(version) = nginx.version.filter(|version| *version != built_for.version) {
        let what = format!(
            "the module is for nginx {}, and \"{}\" is {}",
            dotted(built_for.version),
            nginx.binary.display(),
            dotted(version)
        );
        report.add(Problem::ModuleVersion, Some(&line.place), what);
    }
    let signature = fs::read(&nginx.binary).ok().and_then(|binary| signature(&binary));
    match signature {
        Some(signature) if signature != built_for.signature => {
            let what = format!(
                "the module is built for the signature {}, and \"{}\" has {signature}",
                built_for.signature,
                nginx.binary.display()
            );
            report.add(Problem::ModuleSignature, Some(&line.place), what);
        }
        Some(_) => {}
        None => report
            .skip(format!("the signature of \"{}\", which cannot be read", nginx.binary.display())),
    }
}

/// A module may be linked into nginx.
fn check_static(nginx: Option<&Nginx>, report: &mut Report) {
    let Some(nginx) = nginx else { return };
    let binary = fs::read(&nginx.binary).unwrap_or_default();
    if !contains(&binary, b"ngx_http_authgear_module") {
        let what = "no \"load_module\" names ngx_http_authgear_module.so";
        report.add(Problem::ModuleNotLoaded, None, what);
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

fn dotted(version: u64) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

/// The signature in a binary of nginx: `NGX_MODULE_SIGNATURE` is sizes, then a digit for each
/// option of the build.
fn signature(binary: &[u8]) -> Option<String> {
    const FEWEST: usize = 30;
    let is_signature = |text: &[u8]| {
        let mut parts = text.rsplitn(2, |byte| *byte == b',');
        let options = parts.next().unwrap_or_default();
        let sizes = parts.next().unwrap_or_default();
        let digits = |bytes: &[u8], most: u8| bytes.iter().all(|b| (b'0'..=most).contains(b));
        options.len() >= FEWEST
            && digits(options, b'1')
            && sizes.split(|byte| *byte == b',').count() == 3
            && sizes.iter().all(|byte| byte.is_ascii_digit() || *byte == b',')
    };
    let found = binary.split(|byte| *byte == 0).find(|text| is_signature(text))?;
    String::from_utf8(found.to_vec()).ok()
}

/// Reads `ngx_modules[0]` of a module: fields `version` and `signature` of `ngx_module_t`.
fn built_for(content: &[u8]) -> Option<BuiltFor> {
    const VERSION: u64 = 40;
    const SIGNATURE: u64 = 48;
    let file = ElfFile::<FileHeader64<Endianness>>::parse(content).ok()?;
    let address = |name: &str| {
        let symbols = file.dynamic_symbol_table()?;
        let symbol = symbols.symbols().find(|symbol| symbol.name() == Ok(name));
        symbol.map(|symbol| symbol.address()).filter(|address| *address != 0)
    };
    let module = pointer(&file, address("ngx_modules")?)?;
    let version = word(&file, module + VERSION)?;
    let text = bytes(&file, pointer(&file, module + SIGNATURE)?)?;
    let text = text.split(|byte| *byte == 0).next()?;
    Some(BuiltFor { version, signature: String::from_utf8(text.to_vec()).ok()? })
}

type Elf<'a> = ElfFile<'a, FileHeader64<Endianness>>;

/// The bytes that are loaded from an address on.
fn bytes<'a>(file: &Elf<'a>, address: u64) -> Option<&'a [u8]> {
    file.segments().find_map(|segment| {
        let offset = usize::try_from(address.checked_sub(segment.address())?).ok()?;
        segment.data().ok()?.get(offset..)
    })
}

fn word(file: &Elf<'_>, address: u64) -> Option<u64> {
    let bytes: [u8; 8] = bytes(file, address)?.first_chunk().copied()?;
    Some(if file.is_little_endian() {
        u64::from_le_bytes(bytes)
    } else {
        u64::from_be_bytes(bytes)
    })
}

/// The pointer that the loader will write at an address.
fn pointer(file: &Elf<'_>, address: u64) -> Option<u64> {
    let relocation = file.dynamic_relocations()?.find(|(at, _)| *at == address);
    let Some((_, relocation)) = relocation else { return word(file, address) };
    let addend = relocation.addend() as u64;
    let base = match (relocation.target(), relocation.flags()) {
        (
            RelocationTarget::Symbol(index),
            RelocationFlags::Elf { r_type: R_X86_64_64 | R_AARCH64_ABS64 },
        ) => file.dynamic_symbol_table()?.symbol_by_index(index).ok()?.address(),
        _ => 0,
    };
    Some(base.wrapping_add(addend))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_counted_as_nginx_does() {
        assert_eq!(number("nginx/1.22.1"), Some(1_022_001));
        assert_eq!(number("nginx/1.30.0 (Debian)"), Some(1_030_000));
        assert_eq!(number("openresty/1.25.3.1"), Some(1_025_003));
        assert_eq!(number("Angie/1.9.0"), None);
        assert_eq!(dotted(1_022_001), "1.22.1");
    }

    #[test]
    fn a_signature_is_found_among_other_texts() {
        let binary = b"text\x008,4,8,2011111111010111001111111111110111\x008,4,8,01\x00\
                       8,4,8,0011111111010111001111111111110111\x00";
        let found = signature(binary);
        assert_eq!(found.as_deref(), Some("8,4,8,0011111111010111001111111111110111"));
    }

    #[test]
    fn what_is_no_module_is_refused() {
        assert_eq!(built_for(b""), None);
        assert_eq!(built_for(b"\x7fELF\x02\x01\x01garbage"), None);
        let own = fs::read(std::env::current_exe().expect("a path")).expect("this program");
        assert_eq!(built_for(&own), None);
    }
}
