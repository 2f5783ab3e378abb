//! Look-ups by a subrequest to a location of the site (`resolver_url /uri`).

use core::cell::RefCell;
use std::rc::Rc;

use authgear::resolver;
use authgear::verdict::Unavailable;

use super::question::Question;
use crate::cache::Cache;
use crate::conf::project::Project;
use nginx::{Failed, Request, SubrequestOutcome};

/// A subrequest in flight.
pub(super) struct Subrequest {
    /// The answer, once the subrequest has ended.
    pub(super) answer: Rc<RefCell<Option<resolver::ResolverAnswer>>>,
    pub(super) question: Question,
    pub(super) cache: Option<Rc<Cache>>,
}

impl Subrequest {
    /// Starts a subrequest that carries the headers of `question` and no others.
    pub(super) fn start(
        request: &mut Request,
        project: &Rc<Project>,
        uri: &str,
        question: Question,
        cache: Option<Rc<Cache>>,
    ) -> Result<Self, Failed> {
        let headers: Vec<(&[u8], &[u8])> = question.inquiry.request.fields().collect();
        let answer = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&answer);
        let (project, presented) = (Rc::clone(project), question.presented);
        let done = move |outcome| {
            *slot.borrow_mut() = Some(read(outcome, &project).about(presented));
        };
        request.subrequest(uri, &headers, Box::new(done))?;
        Ok(Self { answer, question, cache })
    }
}

fn read(outcome: SubrequestOutcome, project: &Project) -> resolver::ResolverAnswer {
    let SubrequestOutcome::Answer { status, headers, has_body } = outcome else {
        return Unavailable::BadStatus.into();
    };
    let fields = headers.iter().map(|(name, value)| (&name[..], &value[..]));
    resolver::ResolverAnswer::read(status, fields, &project.cookies).with_body(has_body)
}
