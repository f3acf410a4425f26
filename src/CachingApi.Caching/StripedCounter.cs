namespace CachingApi.Caching;

/// <summary>A counter that many threads increment: each processor has its own cell, on its own cache line.</summary>
internal sealed class StripedCounter
{
    private const int CellsPerLine = 16;

    private static readonly int Stripes = (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)Environment.ProcessorCount);

    private readonly long[] _cells = new long[Stripes * CellsPerLine];

    public long Value
    {
        get
        {
            var value = 0L;
            for (var cell = 0; cell < _cells.Length; cell += CellsPerLine)
            {
                value += Volatile.Read(ref _cells[cell]);
            }

            return value;
        }
    }

    public void Increment() => Interlocked.Increment(ref _cells[(Thread.GetCurrentProcessorId() & (Stripes - 1)) * CellsPerLine]);
}
