#!/bin/sh
# The figures of docs/performance.md on a GPU: `measure_gpu.sh PYTHON FOLDER PART…`; a part some minutes.
# Each part prints a short table and leaves the rest in FOLDER.
set -u
cd "$(dirname "$0")/.."
python=$1
folder=$2
shift 2
mkdir -p "$folder"
export PYTHONUNBUFFERED=1 PYTHONPATH=.
model=$folder/7b.gguf
cache=$folder/programs
options="--max-model-len 9728 --compilation-cache-dir $cache"
begin=$(date +%s)

say() { echo "[$(($(date +%s) - begin)) s] $*"; }

# The shape of Qwen2.5-7B with random blocks: speed does not depend on the values.
[ -f "$model" ] || $python -m benchmarks.make_gguf "$model" --size 7b --type Q4_K_M

# Several processes: compiling takes most of the time, and leaves the GPU to others.
tests() {
    for kind in 'kernels -k products' 'kernels -k gated or tiled' 'kernels -k rotation' \
        'kernels -knot(products or gated or tiled or rotation)' \
        'attention -k decode and 64' 'attention -k decode and 128' 'attention -knot decode' 'serving' 'device_sums'; do
        file=tests/gpu/test_${kind%% *}.py
        chosen=${kind#"${kind%% *}"}
        chosen=${chosen# -k}
        report=$folder/tests_$(echo "$kind" | tr -cs 'a-z0-9\n' _).txt
        XLA_PYTHON_CLIENT_PREALLOCATE=false XLA_CLIENT_MEM_FRACTION=0.1 \
            $python -m pytest -q "$file" -k "$chosen" >"$report" 2>&1 &
    done
    wait
    for report in "$folder"/tests_*.txt; do
        echo "$(basename "$report"): $(tail -n 1 "$report")"
    done
}

speed() {
    $python -m benchmarks.speed "$model" --dtypes bfloat16 --prefill 128 192 256 384 512 768 1024 2048 8192 \
        --decode 1 8 32 128 32x8192 $options | tee "$folder/speed.txt" | tail -n 12
}

# What XLA's ways to launch a step's kernels give.
flags() {
    for flag in '' --xla_gpu_command_buffer_update_mode=SKIP_TEMP --xla_gpu_enable_command_buffer=; do
        say "XLA_FLAGS=$flag"
        XLA_FLAGS=$flag timeout 120 $python -m benchmarks.speed "$model" --dtypes bfloat16 \
            --prefill 512 2048 --decode 1 8 --max-num-seqs 8 >"$folder/flags$flag.txt" 2>&1
        tail -n 4 "$folder/flags$flag.txt"
    done
}

# Starts the server and waits for it; $server is its process.
start() {
    started=$(date +%s)
    $python -m server serve "$model" --max-num-seqs 128 --no-enable-prefix-caching --port 8000 \
        $options >"$folder/$1.txt" 2>&1 &
    server=$!
    until $python -c 'import urllib.request as r; r.urlopen("http://127.0.0.1:8000/health")' 2>/dev/null; do
        kill -0 $server 2>/dev/null || { tail -n 20 "$folder/$1.txt"; return 1; }
        sleep 0.2
    done
    say "$1: healthy after $(($(date +%s) - started)) s"
}

stop() {
    kill -TERM $server
    wait $server
}

serve() {
    start server || return
    grep -i 'kv cache\|compiled' "$folder/server.txt"
    bench="$python -m server bench serve --ignore-eos --temperature 0 --workers 4"
    $bench --random-input-len 512 --random-output-len 256 --num-warmups 2 \
        --max-concurrency 1 32 128 --num-prompts 12 192 512 >"$folder/served.txt" 2>&1
    $bench --random-input-len 7936 --random-output-len 128 \
        --max-concurrency 128 --num-prompts 128 >"$folder/served_long.txt" 2>&1
    for report in served served_long; do
        grep -i 'concurrency:\|successful\|output token\|median ttft\|median tpot\|p99 itl' "$folder/$report.txt"
    done
    stop
}

# The second start finds every program compiled.
warm_start() {
    $python -m benchmarks.starts "$model" --max-num-seqs 128 --max-model-len 8192 | tee "$folder/starts.txt"
}

# A product at a time: a kernel that stands still must not take the others along.
products() {
    for name in gate_up down qkv out; do
        timeout 90 $python -m benchmarks.products --rows 64 128 384 512 768 2048 --only $name 2>&1
    done | grep rows | tee "$folder/products.txt"
}
attention() {
    $python -m benchmarks.kernels | tee "$folder/kernels.txt"
    $python -m benchmarks.attention_variants | tee "$folder/variants.txt"
}
sampling() { $python -m benchmarks.sampling | tee "$folder/sampling.txt"; }

profile() {
    for batch in 1 32 128; do
        $python -m profiling.trace "$model" --batch $batch --context 512 --steps 20 --no-command-buffers \
            --compilation-cache-dir "$cache" --out "$folder/trace_$batch" >"$folder/trace_$batch.txt" 2>&1
        tail -n 25 "$folder/trace_$batch.txt"
    done
    for script in report compile; do
        $python -m profiling.$script "$model" --batch 128 --compilation-cache-dir "$cache" \
            --out "$folder/$script.html" >"$folder/$script.txt" 2>&1
        tail -n 60 "$folder/$script.txt"
    done
}

for part in "$@"; do
    say "$part"
    $part
done
say "done"
