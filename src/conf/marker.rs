//! The marker type by which crate `nginx` knows this module.

use std::rc::Rc;

use super::{LocationConf, MainConf, ServerConf};
use nginx::{Configuration, ModuleIndex};

/// The Authgear module. It has this configuration at each level.
#[derive(Debug)]
pub struct Authgear;

impl Configuration for Authgear {
    type Main = MainConf;
    type Server = ServerConf;
    type Location = LocationConf;

    fn index() -> &'static ModuleIndex {
        static INDEX: ModuleIndex = ModuleIndex::new();
        &INDEX
    }

    fn blank() -> Rc<LocationConf> {
        thread_local! {
            static BLANK: Rc<LocationConf> = Rc::default();
        }
        BLANK.with(Rc::clone)
    }
}
