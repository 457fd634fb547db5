//! Datasets of the Hugging Face hub: listing a repository, picking its files, downloading them into the usual cache.

use super::dataset::Picked;
use crate::error::Result;

/// Downloads the files of `split` (`train` if `None`) of the dataset `id` and returns their paths in the cache.
///
/// # Errors
/// No network, no such dataset, a licence that has not been accepted (says where), no data files for the split.
#[cfg(not(feature = "hub"))]
pub fn fetch_dataset(id: &str, _split: Option<&str>) -> Result<Picked> {
    Err(crate::err!("the dataset `{id}` is not on disk, and this engine was built without the hub")
        .hint("build with `--features hub`, or download the dataset and give its files"))
}

/// Downloads the files of `split` (`train` if `None`) of the dataset `id` and returns their paths in the cache.
///
/// # Errors
/// No network, no such dataset, a licence that has not been accepted (says where), no data files for the split.
#[cfg(feature = "hub")]
pub fn fetch_dataset(id: &str, split: Option<&str>) -> Result<Picked> {
    let mut builder = hf_hub::api::sync::ApiBuilder::from_env();
    if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.trim().is_empty()) {
        builder = builder.with_token(Some(token.trim().to_string()));
    }
    fetch_dataset_from(builder, id, split)
}

/// [`fetch_dataset`] from the hub, cache and account that `builder` names.
#[cfg(feature = "hub")]
pub fn fetch_dataset_from(builder: hf_hub::api::sync::ApiBuilder, id: &str, split: Option<&str>) -> Result<Picked> {
    use super::dataset::pick_files;
    use crate::error::Context;

    let api = builder.build().map_err(|error| refused(id, &error.to_string()))?;
    let repo = api.dataset(id.to_string());
    let info = repo.info().map_err(|error| refused(id, &error.to_string()))?;
    let names: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    let picked = pick_files(&names, split).context(|| format!("in the dataset `{id}`"))?;
    let path = |name: &String| match repo.get(name) {
        Ok(path) => Ok(path.display().to_string()),
        Err(error) => Err(refused(id, &error.to_string())),
    };
    let files = picked.files.iter().map(path).collect::<Result<Vec<_>>>()?;
    Ok(Picked { files, ..picked })
}

#[cfg(feature = "hub")]
fn refused(id: &str, error: &str) -> crate::error::Error {
    let failed = crate::err!("cannot get the dataset `{id}` from the hub: {error}");
    let status =
        |code: &str| error.contains(&format!("status: {code}")) || error.contains(&format!("status code {code}"));
    if status("401") || status("403") {
        return failed.of_kind(crate::error::Kind::Gated).hint(format!(
            "open https://huggingface.co/datasets/{id}, accept its terms if it asks for that, and set HF_TOKEN to a token \
             of your account (a misspelt name gives the same answer)"
        ));
    }
    if status("404") {
        return failed
            .hint("check the spelling: a dataset on disk needs its extension, one on the hub is `owner/name`");
    }
    failed.hint("check the network; a dataset on disk is a .jsonl, .json or .parquet file or a folder of them")
}
