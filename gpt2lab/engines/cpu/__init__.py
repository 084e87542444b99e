"""The fast engine: compiled kernels over packed weights, on the processor alone.

In the order of reading:

    plain                    the whole step in NumPy, a few lines a phase; read it first
    phases                   the table: phase, what it reads and writes, how many tickets
    layout                   the words that engine and kernels share; steps along K (`STEP`)
    tickets  threads         how threads share a step; the threads themselves
    rows  matrix  kv         layer norm and packed rows; weights times rows; keys and values
    attention  step          one head; the phases as functions, and the loop that calls them
    scoring  partials        scores in place of logits: the phases, and what the engine adds up
    llvm/                    the innermost loops as vectors
    cpu_features             what this processor has: a `Target`
    packing  weights         weights in panels; where each of them is
    cache  buffers  engine   slots; the memory of a step; the engine
    draw/                    drawing the next tokens of many rows
    compile_cache  packed_cache    what is kept on disk for the next start
    elf_loader               kernels from there without LLVM

To add an instruction set:

 1. In `cpu_features`, return a `Target` for its features from `target_of`: lanes of a vector, rows
    of the largest tile (rows x 2 vectors of sums must fit the registers), and which products serve
    bfloat16 and int8.
 2. If it multiplies in a new way, add a key to `layout.STEP` (how many numbers of K one step takes,
    in how many bytes), and cases to the three methods of `llvm.products.Product`: how weights are
    loaded, how activations are, and the multiplication itself.
 3. If its rows have a new form, add a function to `rows.pack_kernel`, its twin to `plain.packed`,
    and the way back to `plain.unpacked`; if its weights have, a case to `packing.pack`.
 4. Run `tests/test_cpu_phases.py`, which compares every phase with its twin, and
    `tests/test_cpu_engine.py`: equal bits in any batch, and the accuracy of each dtype. A case in
    `test_the_path_is_chosen_by_features` holds the choice.
"""
