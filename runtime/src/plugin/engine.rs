//! The one engine of a process: how guests are compiled and where they live.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use wasmtime::component::{Component, Linker};
use wasmtime::{
    Config, Engine, EngineWeak, Inlining, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use super::capabilities;
use super::component::Digest;
use super::guest::Guest;

/// How often the clock of the guests ticks: how late a timeout may be noticed.
pub(super) const TICK: Duration = Duration::from_millis(5);

/// Native stack of a guest. A lane is a thread of 2 MiB, and the host's own calls need some of it.
const STACK_BYTES: usize = 512 << 10;

/// Plugin instances of a process: lanes times plugins, with what divisions replace. Each reserves
/// 4 GiB of address space, of which nothing is resident until it is used.
const MAX_INSTANCES: u32 = 1000;

/// A component made by `componentize-py` has some twenty core modules, one of ours three.
pub(super) const MAX_CORE_INSTANCES: u32 = 64;
pub(super) const MAX_TABLES: u32 = 8;
pub(super) const MAX_MEMORIES: u32 = 4;
pub(super) const MAX_TABLE_ELEMENTS: usize = 100_000;

#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Folder for compiled plugins, made when it is missing. It may be deleted at any time.
    pub cache_dir: PathBuf,
    /// The `millstream` binary, which is called to compile a plugin under limits. `None` compiles
    /// in this process: for code that is trusted.
    pub compiler: Option<PathBuf>,
    /// Whether the frames of a fault have source lines, if the plugin was built with them. It reads
    /// debug information in this process: for the author of a plugin, not for one that runs
    /// strangers'.
    pub source_lines: bool,
}

impl EngineSettings {
    /// Settings for the `millstream` binary itself.
    pub fn own_binary(cache_dir: PathBuf) -> anyhow::Result<EngineSettings> {
        // By this name the running binary is found even after it was replaced on disk.
        let own = PathBuf::from("/proc/self/exe");
        let compiler = if own.exists() {
            own
        } else {
            std::env::current_exe().context("the path of this binary is needed to compile plugins")?
        };
        Ok(EngineSettings { cache_dir, compiler: Some(compiler), source_lines: false })
    }
}

/// Loads plugins and lends them what they share. One for a process.
pub struct PluginEngine {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Guest>,
    pub(super) settings: EngineSettings,
    /// What compiled code depends on besides the plugin: our version of the engine and its
    /// settings, and this processor.
    pub(super) compatibility: u64,
    pub(super) loaded: Mutex<HashMap<Digest, Component>>,
}

impl PluginEngine {
    /// # Errors
    /// The address space that instances reserve is not to be had, or a thread.
    pub fn new(settings: EngineSettings) -> anyhow::Result<Arc<PluginEngine>> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(MAX_INSTANCES)
            .total_memories(MAX_INSTANCES)
            .total_core_instances(MAX_INSTANCES * 8)
            .total_tables(MAX_INSTANCES * 4)
            .table_elements(MAX_TABLE_ELEMENTS)
            .max_core_instances_per_component(MAX_CORE_INSTANCES)
            .max_memories_per_component(MAX_MEMORIES)
            .max_tables_per_component(MAX_TABLES)
            .max_tables_per_module(MAX_TABLES)
            .max_memories_per_module(MAX_MEMORIES)
            // Memory of an instance that is gone goes back to the system.
            .max_unused_warm_slots(0);
        let engine = Engine::new(&config(pool.into(), settings.source_lines))
            .map_err(anyhow::Error::from)
            .context("the plugin engine reserves address space for its instances; allow more (ulimit -v)")?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let mut linker = Linker::new(&engine);
        capabilities::add_to_linker(&mut linker)?;
        spawn_ticker(engine.weak())?;
        Ok(Arc::new(PluginEngine {
            engine,
            linker,
            settings,
            compatibility: hasher.finish(),
            loaded: Mutex::default(),
        }))
    }

    /// Lets go of what plugins share while they are loaded. Those that are loaded stay; the next one
    /// comes from the cache on disk.
    pub fn forget_loaded(&self) {
        self.loaded.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
    }
}

impl std::fmt::Debug for PluginEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginEngine").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// An engine that can only compile, for the process that does nothing else. Its code runs in
/// [`PluginEngine`]: the kind of allocation is not compiled in.
pub(super) fn compiling_engine(source_lines: bool) -> anyhow::Result<Engine> {
    Ok(Engine::new(&config(InstanceAllocationStrategy::OnDemand, source_lines))?)
}

fn config(allocation: InstanceAllocationStrategy, source_lines: bool) -> Config {
    let mut config = Config::new();
    config
        .allocation_strategy(allocation)
        // Costs a plugin 30-38 % and is what makes P4 hold for a loop without end.
        .epoch_interruption(true)
        // Tasks and streams of the component model, which cost 400 ns a call.
        .concurrency_support(false)
        // Inlined here, the largest built-in (6 MB) takes 3.3 GB to compile instead of 0.2 GB. Guests
        // are inlined by their own compiler.
        .compiler_inlining(Inlining::No)
        .max_wasm_stack(STACK_BYTES)
        .wasm_memory64(false)
        .relaxed_simd_deterministic(true)
        // Names of functions come from the name section; DWARF of a stranger is not read here. So
        // nobody asks which instruction it was, and compiled code is an eighth smaller.
        .wasm_backtrace_details(match source_lines {
            true => WasmBacktraceDetails::Enable,
            false => WasmBacktraceDetails::Disable,
        })
        .generate_address_map(source_lines)
        .native_unwind_info(false);
    config
}

/// One thread ticks for all guests, until the engine is gone.
fn spawn_ticker(engine: EngineWeak) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name("plugin-clock".into())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })
        .context("the thread that ends plugins which run too long could not be started")?;
    Ok(())
}
