using System.Text;
using ScottPlot;
using ScottPlot.Rendering.RenderActions;
using SkiaSharp;

namespace CachingApi.Lab;

/// <summary>A picture of one or more panels.</summary>
internal sealed class Picture(params Panel[] panels)
{
    private const int Width = 900;
    private const int FirstWidth = 530; // of two panels beside each other, of which the first one has the names of the rows
    private const int HeaderHeight = 8;

    /// <summary>The panels beside each other; otherwise one below the other.</summary>
    public bool IsWide { get; init; }

    /// <summary>The height of a panel.</summary>
    public int Height { get; init; } = 300;

    /// <summary>The titles of the panels.</summary>
    public string Caption => string.Join("; ", panels.Select(panel => panel.Title));

    /// <summary>Draws the picture, once: the panels are disposed of then.</summary>
    public string ToSvg()
    {
        var height = HeaderHeight + (IsWide ? Height : Height * panels.Length);
        using var stream = new MemoryStream();
        using (var canvas = SKSvgCanvas.Create(SKRect.Create(Width, height), stream))
        {
            Draw(canvas, height);
        }

        return Theme.Apply(Encoding.UTF8.GetString(stream.ToArray()), Width, height);
    }

    private void Draw(SKCanvas canvas, int height)
    {
        using var paper = new SKPaint { Color = SKColor.Parse(Theme.Paper) };
        canvas.DrawRect(0, 0, Width, height, paper);
        var bottom = panels.Any(panel => panel.ShowsLegend) ? 125 : 55;
        for (var index = 0; index < panels.Length; index++)
        {
            using var panel = panels[index];
            var plot = panel.ToPlot(IsWide ? bottom : null);
            plot.RenderManager.RenderActions.RemoveAll(action => action is ClearCanvas); // it would clear the other panels
            var (left, right) = !IsWide ? (0, Width) : index == 0 ? (0, FirstWidth) : (FirstWidth, Width);
            var row = IsWide ? 0 : index;
            plot.Render(canvas, new PixelRect(
                left: left,
                right: right,
                bottom: HeaderHeight + (row + 1) * Height,
                top: HeaderHeight + row * Height));
        }
    }
}
