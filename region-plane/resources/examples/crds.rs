//! Prints the custom resource definitions as the chart has them.

use kube::CustomResourceExt as _;
use region_plane_resources::{Function, WarmPool};

fn main() -> Result<(), serde_saphyr::ser::Error> {
    for definition in [Function::crd(), WarmPool::crd()] {
        println!("---\n{}", serde_saphyr::to_string(&definition)?.trim_end());
    }
    Ok(())
}
