//! `engine push`, and the end of `engine train --push-to-hub`.

use std::path::Path;

use crate::cli::hub_args::{HubArgs, PushArgs};
use crate::cli::out::print;
use crate::error::{Error, Result};

pub fn run(args: &PushArgs) -> Result<()> {
    let page = push(&args.folder, &args.hub_model_id, args.hub_private)?;
    print(&format!("{page}\n"))
}

impl HubArgs {
    /// What can be known before a long run.
    ///
    /// # Errors
    /// A usage error: there is no id or a wrong one, or no token.
    pub fn check(&self) -> Result<()> {
        match &self.hub_model_id {
            _ if !self.push_to_hub => Ok(()),
            Some(id) => check(id),
            None => Err(Error::usage("`--push-to-hub` needs a name for the model")
                .hint("give `--hub-model-id OWNER/NAME`, where OWNER is your account or an organization")),
        }
    }

    /// Pushes the finished model in `folder`, if that was asked for. Returns its page.
    ///
    /// # Errors
    /// It could not be pushed. The error says how it can be later.
    pub fn push(&self, folder: &Path) -> Result<Option<String>> {
        let Some(id) = self.hub_model_id.as_deref().filter(|_| self.push_to_hub) else { return Ok(None) };
        push(folder, id, self.hub_private).map(Some).map_err(|error| {
            let private = if self.hub_private { " --hub-private" } else { "" };
            let place = folder.display();
            error.context(format!(
                "the model is saved in `{place}`, but not pushed; `engine push {place} --hub-model-id {id}{private}` does that \
                 later"
            ))
        })
    }
}

#[cfg(feature = "hub")]
fn check(id: &str) -> Result<()> {
    crate::session::publish::check(id)
}

#[cfg(feature = "hub")]
fn push(folder: &Path, id: &str, private: bool) -> Result<String> {
    use crate::cli::out::say;
    use crate::cli::signals;
    use crate::error::printable;
    let hub = crate::hub::Hub::from_env()?;
    say(&format!("pushing `{}` to `{}/{}`", folder.display(), hub.endpoint, printable(id)));
    let go_on = || signals::go_on("the push was stopped: the hub has no commit of it");
    let pushed = crate::session::publish::push_folder(&hub, folder, id, private, &go_on)?;
    for name in &pushed.ignored {
        say(&format!("warning: `{}` was not pushed: the `.gitignore` of the model names it", printable(name)));
    }
    Ok(pushed.page)
}

#[cfg(not(feature = "hub"))]
fn check(_: &str) -> Result<()> {
    Err(Error::usage("this build cannot push to the hub (feature `hub`)"))
}

#[cfg(not(feature = "hub"))]
fn push(_: &Path, id: &str, _: bool) -> Result<String> {
    check(id).map(|()| String::new())
}
