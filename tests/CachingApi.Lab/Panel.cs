using ScottPlot;
using ScottPlot.TickGenerators;

namespace CachingApi.Lab;

/// <summary>One plot of a picture: a title, two axes with units, and what is drawn between them.</summary>
internal sealed class Panel(string title, string xLabel, string yLabel) : IDisposable
{
    private readonly Plot _plot = new();
    private readonly List<string> _names = [];
    private readonly List<(double At, string Text)> _notes = [];
    private readonly List<(double Y, string Text)> _levels = [];
    private double _highest;
    private bool _isCategories;

    public string Title => title;

    public bool IsLogX { get; init; }

    public bool IsLogY { get; init; }

    /// <summary>The lowest value of a logarithmic axis: lower ones, such as 0, are drawn there.</summary>
    public double Floor { get; init; } = 1;

    /// <summary>The vertical axis shows only the range of the values, not all from zero on.</summary>
    public bool FitsY { get; init; }

    /// <summary>The end of the horizontal axis, which begins at zero then; by default both follow the values.</summary>
    public double? Until { get; init; }

    /// <summary>Whether the panel has a legend below it.</summary>
    public bool HasLegend { get; init; } = true;

    /// <summary>Whether rows have their names at the left; a panel beside another one does not repeat them.</summary>
    public bool HasRowLabels { get; init; } = true;

    /// <summary>The width of the names of rows, in a panel beside another one.</summary>
    public int LabelWidth { get; init; } = 200;

    public bool ShowsLegend => HasLegend && _names.Count > 0;

    /// <summary>A line through points; as steps if a value holds until the next one.</summary>
    public void Line(string name, IEnumerable<(double At, double Value)> points, bool isStep = false)
    {
        var (colour, pattern, _) = Theme.Of(name);
        Line(name, colour, pattern, points, isStep);
    }

    /// <inheritdoc cref="Line(string, IEnumerable{ValueTuple{double, double}}, bool)"/>
    public void Line(string name, Color colour, LinePattern pattern, IEnumerable<(double At, double Value)> points, bool isStep = false)
    {
        var values = points.Select(point => Y(point.Value)).ToArray();
        var line = _plot.Add.ScatterLine(points.Select(point => X(point.At)).ToArray(), values, colour);
        _highest = Math.Max(_highest, values.Max());
        (line.LegendText, line.LinePattern, line.LineWidth) = (name, pattern, 2.2f);
        line.ConnectStyle = isStep ? ConnectStyle.StepHorizontal : ConnectStyle.Straight;
        _names.Add(name);
    }

    /// <summary>Points that belong together; the first and the last one are drawn with their texts.</summary>
    public void Path(string name, IReadOnlyList<(double X, double Y, string Text)> points)
    {
        var (colour, pattern, marker) = Theme.Of(name);
        var line = _plot.Add.Scatter(points.Select(point => X(point.X)).ToArray(), points.Select(point => Y(point.Y)).ToArray(), colour);
        (line.LegendText, line.LinePattern, line.LineWidth, line.MarkerShape, line.MarkerSize) = (name, pattern, 2.2f, marker, 10);
        _names.Add(name);
        foreach (var (x, y, text) in new[] { points[0], points[^1] })
        {
            var label = _plot.Add.Text(text, X(x), Y(y));
            Style(label, Alignment.LowerLeft, 12, colour);
            (label.OffsetX, label.OffsetY) = (6, -4);
        }
    }

    /// <summary>A moment at which something happens.</summary>
    public void Moment(double at, string text)
    {
        _plot.Add.VerticalLine(X(at), 1.5f, Color.FromHex(Theme.Further), LinePattern.Dotted);
        _notes.Add((at, text));
    }

    /// <summary>A text at the top, without a mark.</summary>
    public void Note(double at, string text) => _notes.Add((at, text));

    /// <summary>A time in which something was the case, such as an outage.</summary>
    public void Span(double from, double to, string text)
    {
        var span = _plot.Add.HorizontalSpan(X(from), X(to), Color.FromHex(Theme.Shade));
        span.LineWidth = 0;
        _plot.MoveToBack(span);
        _notes.Add(((from + to) / 2, text));
    }

    /// <summary>A level to compare with.</summary>
    public void Level(double y, string text)
    {
        _plot.Add.HorizontalLine(Y(y), 1.5f, Color.FromHex(Theme.Ink), LinePattern.Dotted);
        _levels.Add((y, text));
    }

    /// <summary>Horizontal bars from top to bottom, each with its value as text.</summary>
    public void Bars(IReadOnlyList<(string Label, Color Colour, double Value, string Text)> bars)
    {
        var (ticks, start) = (new Tick[bars.Count], IsLogX ? X(Floor) : 0);
        foreach (var (bar, index) in bars.Select((bar, index) => (bar, index)))
        {
            var position = bars.Count - 1 - index;
            var drawn = _plot.Add.Bar(new Bar
            {
                Position = position,
                ValueBase = start,
                Value = X(bar.Value),
                Size = 0.7,
                FillColor = bar.Colour,
                LineWidth = 0,
                Orientation = Orientation.Horizontal,
            });
            drawn.Horizontal = true;
            var text = _plot.Add.Text(bar.Text, X(bar.Value), position);
            Style(text, Alignment.MiddleLeft, 13, Color.FromHex(Theme.Ink));
            text.OffsetX = 5;
            ticks[index] = new(position, HasRowLabels ? bar.Label : "");
        }

        _plot.Axes.Left.TickGenerator = new NumericManual(ticks);
        _plot.Axes.SetLimitsY(-0.6, bars.Count - 0.4);
        _plot.Axes.SetLimitsX(start, start + Math.Max(bars.Max(bar => X(bar.Value)) - start, 0.01) * 1.4); // with room for the texts
        _isCategories = true;
    }

    /// <summary>Groups of rows from top to bottom. Each row is a contender: a dot at one figure, and a line to a higher one.</summary>
    public void Ranges(IReadOnlyList<(string Group, IReadOnlyList<(string Contender, double From, double To)> Rows)> groups)
    {
        var ticks = new Tick[groups.Count];
        for (var group = 0; group < groups.Count; group++)
        {
            var (middle, rows) = (groups.Count - 1 - group, groups[group].Rows);
            for (var row = 0; row < rows.Count; row++)
            {
                var y = middle + 0.17 * ((rows.Count - 1) / 2.0 - row);
                var (colour, _, marker) = Theme.Of(rows[row].Contender);
                _plot.Add.Line(X(rows[row].From), y, X(rows[row].To), y).LineStyle = new(4, colour);
                var dot = _plot.Add.Marker(X(rows[row].From), y, marker, 11, colour);
                if (_names.Contains(rows[row].Contender))
                {
                    continue;
                }

                dot.LegendText = rows[row].Contender;
                _names.Add(rows[row].Contender);
            }

            ticks[group] = new(middle, HasRowLabels ? groups[group].Group : "");
        }

        _plot.Axes.Left.TickGenerator = new NumericManual(ticks);
        _plot.Axes.SetLimitsY(-0.6, groups.Count - 0.4);
        var most = groups.SelectMany(group => group.Rows).Max(row => X(row.To));
        var least = IsLogX ? X(Floor) : 0;
        _plot.Axes.SetLimitsX(least - (most - least) * 0.03, most + (most - least) * 0.05);
        _isCategories = true;
    }

    /// <param name="bottom">
    /// In a panel beside another one: the height of what is below the rows, so that rows are at the same height in both.
    /// </param>
    public Plot ToPlot(int? bottom)
    {
        if (bottom is { } height)
        {
            _plot.Layout.Fixed(new PixelPadding(left: HasRowLabels ? LabelWidth : 25, right: 20, bottom: height, top: 40));
        }

        SetColoursAndSizes();
        if (!_isCategories)
        {
            Fit();
        }

        Annotate();
        _plot.HideLegend(); // or ScottPlot lays one over the lines
        if (ShowsLegend)
        {
            AddLegend();
        }

        return _plot;
    }

    public void Dispose() => _plot.Dispose();

    private void SetColoursAndSizes()
    {
        var ink = Color.FromHex(Theme.Ink);
        _plot.Font.Set(Theme.Font);
        _plot.FigureBackground.Color = Color.FromHex(Theme.Paper);
        _plot.DataBackground.Color = Colors.Transparent;
        _plot.Axes.Color(ink);
        _plot.Title(title, 15);
        _plot.Axes.Title.Label.ForeColor = ink;
        _plot.XLabel(xLabel, 13);
        _plot.YLabel(yLabel, 13);
        var (bottom, left) = (_plot.Axes.Bottom, _plot.Axes.Left);
        bottom.Label.Bold = left.Label.Bold = false;
        bottom.TickLabelStyle.FontSize = left.TickLabelStyle.FontSize = 12;
        (bottom.MinorTickStyle.Length, left.MinorTickStyle.Length) = (IsLogX ? 3 : 0, IsLogY ? 3 : 0);
        bottom.TickGenerator = IsLogX ? Decades() : bottom.TickGenerator;
        left.TickGenerator = IsLogY ? Decades() : left.TickGenerator;
        left.MinimumSize = 80; // so that panels below each other have the same width
        _plot.Axes.Right.MinimumSize = 20;
        _plot.Axes.Right.FrameLineStyle.Width = _plot.Axes.Top.FrameLineStyle.Width = 0;
        _plot.Grid.MajorLineColor = Color.FromHex(Theme.Grid);
    }

    private void AddLegend()
    {
        var legend = _plot.ShowLegend(Edge.Bottom).Legend;
        (legend.Orientation, legend.FontSize, legend.SymbolWidth) = (Orientation.Horizontal, 13, 28);
        (legend.FontColor, legend.BackgroundColor, legend.ShadowColor) = (Color.FromHex(Theme.Ink), Colors.Transparent, Colors.Transparent);
        legend.OutlineWidth = 0;
    }

    /// <summary>The axis begins at zero, or at the floor, and ends above the highest value.</summary>
    private void Fit()
    {
        _plot.Axes.AutoScale();
        var limits = _plot.Axes.GetLimits();
        if (FitsY)
        {
            _plot.Axes.SetLimitsX(Math.Min(0, limits.Left / 4), limits.Right);
            return;
        }

        var bottom = IsLogY ? Math.Log10(Floor) : 0;
        var top = IsLogY ? Math.Ceiling(_highest) : limits.Top;
        var margin = limits.HorizontalSpan * 0.04; // which AutoScale has added
        _plot.Axes.SetLimitsX(Until is null ? limits.Left + margin : 0, Until ?? limits.Right - margin);
        _plot.Axes.SetLimitsY(bottom - (top - bottom) * 0.03, top + (top - bottom) * (_notes.Count > 0 ? 0.14 : 0.04));
    }

    private void Annotate()
    {
        var (limits, ink) = (_plot.Axes.GetLimits(), Color.FromHex(Theme.Ink));
        foreach (var (at, text) in _notes)
        {
            Style(_plot.Add.Text(text, X(at), limits.Top), Alignment.UpperCenter, 13, ink);
        }

        foreach (var (y, text) in _levels)
        {
            Style(_plot.Add.Text(text, limits.Right, Y(y)), Alignment.LowerRight, 13, ink);
        }
    }

    private static void Style(ScottPlot.Plottables.Text text, Alignment alignment, float size, Color colour)
    {
        (text.LabelFontName, text.LabelFontSize, text.LabelFontColor) = (Theme.Font, size, colour);
        text.LabelAlignment = alignment;
    }

    private double X(double value) => IsLogX ? Math.Log10(Math.Max(value, Floor)) : value;

    private double Y(double value) => IsLogY ? Math.Log10(Math.Max(value, Floor)) : value;

    private NumericAutomatic Decades() => new()
    {
        MinorTickGenerator = new LogMinorTickGenerator(),
        IntegerTicksOnly = true,
        LabelFormatter = power => (Math.Abs(power - Math.Log10(Floor)) < 0.01 ? "≤ " : "") + Text.Number(Math.Pow(10, power)),
    };
}
