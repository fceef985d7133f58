//! Facts of the files, without a daemon.

use meshd_api::proto::SubnetRow;
use meshd_config::{Config, on_disk, vars::nearness};
use meshd_diagnose::{
    Here,
    why::{Firewall, Kernel, PathFacts, Target, There, World},
};
use meshd_wire::Subnet;

use crate::{
    Failure,
    context::{self, Context},
};

/// The files of a configuration, without a daemon.
pub(super) struct Files {
    pub(super) config: Config,
    pub(super) world: World,
}

impl Files {
    pub(super) fn open(context: &Context) -> Result<Self, Failure> {
        let source = context.source(None)?;
        let config = context::load(&source)?;
        let settings = &config.settings;
        let own = settings.name.to_string();
        let mut all: Vec<(Subnet, &str)> = settings
            .subnets
            .iter()
            .map(|subnet| (*subnet, own.as_str()))
            .collect();
        for (name, host) in &settings.hosts {
            all.extend(host.subnets.iter().map(|subnet| (*subnet, name.as_str())));
        }
        all.sort();
        let row = |(subnet, owner): &(Subnet, &str)| SubnetRow {
            subnet: subnet.prefix,
            weight: subnet.weight,
            owner: Some((*owner).to_owned()),
            reachable: false,
            active: false,
        };
        let subnets = all.iter().map(row).collect();
        let names = on_disk::host_names(&source)
            .into_iter()
            .filter(|name| *name != own);
        let world = World {
            names: names.collect(),
            own,
            subnets,
            refused: Vec::new(),
            nearness,
        };
        Ok(Self { config, world })
    }

    /// Returns the node of these files.
    pub(super) fn here(&self) -> Here {
        let source = &self.config.source;
        Here {
            node: self.world.own.clone(),
            net: source.net.clone(),
            pid: None,
            main: meshd_config::main_file(source).display().to_string(),
        }
    }

    pub(super) fn facts(&self, target: Target) -> PathFacts {
        PathFacts {
            here: self.here(),
            not_listening: Vec::new(),
            disk: on_disk::disk(&self.config.source, &target.node),
            target,
            report: None,
            there: There::NotAsked,
            silent_since: None,
            kernel: Kernel::Unchecked("meshd was not asked".into()),
            firewall: Firewall::Unchecked("meshd was not asked".into()),
        }
    }
}
