//! Where what can be had again is kept: the user's cache folder.

use std::path::PathBuf;

/// The folder for what can be had again: `XDG_CACHE_HOME`, else `.cache` of the user whose folder is `home`, if anything says so.
pub fn home(setting: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Option<PathBuf> {
    let set = setting("XDG_CACHE_HOME").map(|folder| folder.trim().to_owned()).filter(|folder| !folder.is_empty());
    let home = home.filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(".cache"));
    set.map(PathBuf::from).or(home)
}

/// The engine's own folder of this name in that of the user. None: nothing says where that is.
pub fn folder(name: &str) -> Option<PathBuf> {
    let home = home(|name| std::env::var(name).ok(), std::env::home_dir())?;
    Some(home.join("engine").join(name))
}
