//! Scenarios that come with the program.

/// A scenario that comes with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// What `adsum run` takes in place of a file.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Its TOML.
    pub text: &'static str,
}

/// All of them, by name.
pub const PRESETS: [Preset; 7] = [
    Preset {
        name: "held",
        about: "users stay signed on and publish at a rate; open-loop notification latency",
        text: include_str!("../../../scenarios/held.toml"),
    },
    Preset {
        name: "logon-storm",
        about: "everybody logs on and subscribes within minutes, as after an outage",
        text: include_str!("../../../scenarios/logon-storm.toml"),
    },
    Preset {
        name: "presence-storm",
        about: "everybody changes state within a minute, as at the full hour",
        text: include_str!("../../../scenarios/presence-storm.toml"),
    },
    Preset {
        name: "quickstart",
        about: "whole workflows against the embedded pool, about one minute",
        text: include_str!("../../../scenarios/quickstart.toml"),
    },
    Preset {
        name: "soak",
        about: "12 hours at a low rate, with short lifetimes and refreshes all the time",
        text: include_str!("../../../scenarios/soak.toml"),
    },
    Preset {
        name: "vendor-model",
        about: "an office day: 4 to 6 publications an hour per user, 50 to 80 contacts",
        text: include_str!("../../../scenarios/vendor-model.toml"),
    },
    Preset {
        name: "workflow",
        about: "whole workflows against a pool of yours: give --target",
        text: include_str!("../../../scenarios/workflow.toml"),
    },
];

/// What `adsum scenario init` writes: a scenario with its choices explained.
pub const INIT: &str = include_str!("../../../scenarios/init.toml");

/// The preset of this name.
#[must_use]
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}
